import android.graphics.Bitmap
import java.io.File
import javax.imageio.ImageIO

/** model, picture: each box of the picture on a line, twice, as an app would ask again and again. */
fun main(given: Array<String>) {
    val detector = Detector(File(given[0]).readBytes())
    repeat(2) {
        for (f in detector.detect(Bitmap(ImageIO.read(File(given[1]))), 0.05f))
            println("${f.label} ${f.score} ${f.left} ${f.top} ${f.right} ${f.bottom}")
    }
}

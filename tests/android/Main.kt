import android.graphics.Bitmap
import java.io.File
import javax.imageio.ImageIO

/** model, picture: each box of the picture on a line, twice, as an app would ask again and again, until it closes. */
fun main(given: Array<String>) {
    val detector = Detector(File(given[0]).readBytes())
    val picture = Bitmap(ImageIO.read(File(given[1])))
    detector.use {
        repeat(2) {
            for (f in detector.detect(picture, 0.05f))
                println("${f.label} ${f.score} ${f.left} ${f.top} ${f.right} ${f.bottom}")
        }
    }
    check(runCatching { detector.detect(picture) }.isFailure) { "its session is still open" }
}

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import android.graphics.Bitmap
import java.nio.ByteBuffer

class Found(val label: Int, val score: Float, val left: Float, val top: Float, val right: Float, val bottom: Float)

/** Detects objects with a file of `nanogfl export`. Create one, reuse it for all frames, and close it at the end. */
class Detector(model: ByteArray) : AutoCloseable {
    private val env = OrtEnvironment.getEnvironment()
    val session = env.createSession(model)
    private var pixels = IntArray(0)
    private var image = ByteBuffer.allocateDirect(0)

    /** Releases the session's native memory, which the garbage collector does not manage. */
    override fun close() = session.close()

    /** Detects in an upright ARGB_8888 bitmap of any size; boxes are in px of the bitmap, best first. */
    fun detect(bitmap: Bitmap, score: Float = 0.4f): List<Found> {
        val (width, height) = bitmap.width to bitmap.height
        if (pixels.size != width * height) {
            pixels = IntArray(width * height)
            image = ByteBuffer.allocateDirect(3 * width * height)
        }
        bitmap.getPixels(pixels, 0, width, 0, 0, width, height)
        image.rewind()
        for (p in pixels) image.put(p.toByte()).put((p shr 8).toByte()).put((p shr 16).toByte()) // blue, green, red
        image.rewind()
        val shape = longArrayOf(height.toLong(), width.toLong(), 3)
        OnnxTensor.createTensor(env, image, shape, OnnxJavaType.UINT8).use { frame ->
            session.run(mapOf("image" to frame)).use { found ->
                val boxes = (found["boxes"].get() as OnnxTensor).floatBuffer // left, top, right, bottom of each
                val scores = (found["scores"].get() as OnnxTensor).floatBuffer
                val labels = (found["labels"].get() as OnnxTensor).longBuffer
                return (0 until scores.remaining()).filter { scores[it] > score }.map {
                    Found(labels[it].toInt(), scores[it], boxes[4 * it], boxes[4 * it + 1], boxes[4 * it + 2], boxes[4 * it + 3])
                }
            }
        }
    }
}

package android.graphics;

import java.awt.image.BufferedImage;

/** As much of Android's as a detector needs, around a picture of the JDK. */
public class Bitmap {
    private final BufferedImage image;

    public Bitmap(BufferedImage image) {
        this.image = image;
    }

    public int getWidth() {
        return image.getWidth();
    }

    public int getHeight() {
        return image.getHeight();
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        image.getRGB(x, y, width, height, pixels, offset, stride);
    }
}

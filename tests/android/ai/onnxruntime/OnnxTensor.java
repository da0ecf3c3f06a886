package ai.onnxruntime;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;

public class OnnxTensor implements OnnxValue {
    final ByteBuffer data;
    final long[] shape;

    OnnxTensor(ByteBuffer data, long[] shape) {
        this.data = data;
        this.shape = shape;
    }

    public static OnnxTensor createTensor(OrtEnvironment env, ByteBuffer data, long[] shape, OnnxJavaType type) {
        if (!data.isDirect() || data.remaining() != shape[0] * shape[1] * shape[2]) {
            throw new IllegalArgumentException(data.remaining() + " bytes");
        }
        return new OnnxTensor(data, shape);
    }

    public FloatBuffer getFloatBuffer() {
        return data.asFloatBuffer();
    }

    public LongBuffer getLongBuffer() {
        return data.asLongBuffer();
    }

    @Override
    public void close() {}
}

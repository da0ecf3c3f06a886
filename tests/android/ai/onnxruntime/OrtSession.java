package ai.onnxruntime;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.Optional;

/** Hands a frame to onnxruntime in Python ({@code COMMAND model frame height width folder}), and its outputs back. */
public class OrtSession implements AutoCloseable {
    private final byte[] model;
    private boolean closed;

    OrtSession(byte[] model) {
        this.model = model;
    }

    @Override
    public void close() {
        closed = true;
    }

    public Result run(Map<String, OnnxTensor> inputs) throws IOException, InterruptedException {
        if (closed) throw new IllegalStateException("Asking to run a session that is closed");
        OnnxTensor image = inputs.get("image");
        Path folder = Files.createTempDirectory("stand-in");
        Path onnx = Files.write(folder.resolve("model.onnx"), model);
        Path frame = folder.resolve("frame");
        try (FileChannel out = FileChannel.open(frame, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
            out.write(image.data.duplicate());
        }
        int code = new ProcessBuilder(
                System.getenv("PYTHON"), System.getenv("SCRIPT"), onnx.toString(), frame.toString(),
                Long.toString(image.shape[0]), Long.toString(image.shape[1]), folder.toString())
            .inheritIO().start().waitFor();
        if (code != 0 || inputs.size() != 1) {
            throw new IOException("exit code " + code);
        }
        return new Result(folder);
    }

    public static class Result implements AutoCloseable {
        private final Path folder;

        Result(Path folder) {
            this.folder = folder;
        }

        public Optional<OnnxValue> get(String name) throws IOException {
            byte[] bytes = Files.readAllBytes(folder.resolve(name));
            return Optional.of(new OnnxTensor(ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN), new long[0]));
        }

        @Override
        public void close() {}
    }
}

import Foundation
import onnxruntime_objc // with the Swift package: OnnxRuntimeBindings

struct Found { let label: Int, score: Float, box: [Float] }

/// Detects objects with a file of `nanogfl export`. Create one, and reuse it for all frames.
final class Detector {
    private let env: ORTEnv, session: ORTSession

    init(path: String) throws {
        env = try ORTEnv(loggingLevel: .warning)
        session = try ORTSession(env: env, modelPath: path, sessionOptions: try ORTSessionOptions())
    }

    /// Detects in an upright picture, three bytes per pixel (blue, green, red), rows from the top. Boxes are left, top,
    /// right, bottom in px of the picture.
    func detect(_ bgr: NSMutableData, width: Int, height: Int, score: Float = 0.4) throws -> [Found] {
        let shape = [height, width, 3] as [NSNumber]
        let frame = try ORTValue(tensorData: bgr, elementType: .uInt8, shape: shape)
        let names: Set<String> = ["boxes", "scores", "labels"]
        let found = try session.run(withInputs: ["image": frame], outputNames: names, runOptions: nil)
        func read<T>(_ name: String, _ kind: T.Type) throws -> [T] {
            (try found[name]!.tensorData() as Data).withUnsafeBytes { Array($0.bindMemory(to: kind)) }
        }
        let boxes = try read("boxes", Float.self), scores = try read("scores", Float.self)
        let labels = try read("labels", Int64.self)
        return scores.indices.filter { scores[$0] > score }.map {
            Found(label: Int(labels[$0]), score: scores[$0], box: Array(boxes[4 * $0 ..< 4 * $0 + 4]))
        }
    }
}

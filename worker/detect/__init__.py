"""Pictures -> faces with track ids: MTCNN on ONNX Runtime, and the tracker."""

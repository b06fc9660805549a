"""Names of what a filled hub has, for parts of paths: see tests/web/filled.py."""

KNOWN = {
    "device": "pi5-1",
    "device_type": "raspberry-pi-5",
    "dataset": "digits",
    "number": 1,
    "project": "digits",
    "model": "digits",
    "rollout": "digits-1",
    "build": "raspberry-pi-5:onnxruntime:fp32",
}

"""A contender of `cargo xtask bench`: steps of another framework, made on demand.

    python bench_peers.py CONTENDER MODEL BATCH SIZE THREADS FILE.onnx

Sets up, makes two steps, prints `ready PARAMETERS VERSION`; on the line `run K` makes K steps and prints their times in
milliseconds; on `quit` prints its peak resident memory and that before the network was built, in KiB, and ends. What
goes wrong is a line `error ...`.

Training: softmax cross-entropy, SGD with momentum 0.9, batch norms with the statistics of the batch, no dropout.

torch-nchw, torch-channels-last            float, operation by operation
torch-compile                              float, channels-last, torch.compile with its defaults
torch-qat-nchw, torch-qat-channels-last    FX graph mode, prepare_qat_fx with the default mapping of the engine x86
                                           (weights per channel, activations per tensor, moving averages)
paddle-float                               static program
paddle-qat, paddle-qat-pact                PaddleSlim's quant_aware on it, with the options of its demo; PACT as its demo
                                           defines it
ort-float, ort-int8                        ONNX Runtime on FILE, default options but for the number of threads
"""

import sys
import time

WARM_UP = 2
CLASSES = 1000


def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def answer(*words):
    print(*words, file=protocol, flush=True)


def serve(step, parameters, version, before):
    for _ in range(WARM_UP):
        step()
    answer("ready", parameters, version)
    for line in sys.stdin:
        word, *rest = line.split()
        if word != "run":
            break
        times = []
        for _ in range(int(rest[0])):
            start = time.perf_counter()
            step()
            times.append(f"{(time.perf_counter() - start) * 1e3:.4f}")
        answer(*times)
    answer(status("VmHWM"), before)


# ---- torch ----


def torch_mobilenet_v1(nn):
    def layer(inputs, outputs, kernel, stride, groups=1):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = layer(3, 32, 3, 2)
    inputs = 32
    blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)] + [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for outputs, stride in blocks:
        layers += layer(inputs, inputs, 3, stride, inputs) + layer(inputs, outputs, 1, 1)
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, CLASSES))


def torch_network(model):
    import torch
    import torchvision

    if model == "mobilenet-v1":
        network = torch_mobilenet_v1(torch.nn)
    else:
        names = {"mobilenet-v3-large": "mobilenet_v3_large", "vgg-16": "vgg16"}
        name = names.get(model, model.replace("mobilenet-v2", "mobilenet_v2").replace("-", ""))
        network = getattr(torchvision.models, name)(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network


def without_dropout(torch, network):
    """A dropout of nothing still costs a copy."""
    for name, child in network.named_children():
        if isinstance(child, torch.nn.Dropout):
            setattr(network, name, torch.nn.Identity())
        else:
            without_dropout(torch, child)


def run_torch(contender, model, batch, size, threads):
    import torch
    import torchvision  # noqa: F401  so that its code counts before the network

    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.manual_seed(1)
    before = status("VmRSS")
    network = torch_network(model)
    without_dropout(torch, network)
    network.train()
    parameters = sum(p.numel() for p in network.parameters())
    x = torch.randn(batch, 3, size, size)
    labels = torch.randint(CLASSES, (batch,))
    if "qat" in contender:
        from torch.ao.quantization import get_default_qat_qconfig_mapping
        from torch.ao.quantization.quantize_fx import prepare_qat_fx

        torch.backends.quantized.engine = "x86"
        network = prepare_qat_fx(network, get_default_qat_qconfig_mapping("x86"), (x,))
    if not contender.endswith("nchw"):
        network = network.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(network) if contender == "torch-compile" else network
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    loss_of = torch.nn.CrossEntropyLoss()

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(forward(x), labels)
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss).item()

    serve(step, parameters, f"torch {torch.__version__}", before)


# ---- Paddle ----


def run_paddle(contender, model, batch, size, threads):
    # Paddle 2.6 crashes when it is the first to load these.
    import zlib  # noqa: F401

    import PIL.Image  # noqa: F401
    import requests  # noqa: F401

    import numpy as np
    import paddle

    before = status("VmRSS")
    paddle.enable_static()
    paddle.seed(1)
    paddle.set_flags({"FLAGS_paddle_num_threads": threads})
    names = {
        "mobilenet-v1": "mobilenet_v1",
        "mobilenet-v2": "mobilenet_v2",
        "mobilenet-v3-large": "mobilenet_v3_large",
        "resnet-18": "resnet18",
        "resnet-50": "resnet50",
        "vgg-16": "vgg16",
    }
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.static.program_guard(main, startup):
        x = paddle.static.data("x", [batch, 3, size, size])
        x.stop_gradient = False  # PaddleSlim looks for its gradient to put PACT in front of it
        label = paddle.static.data("label", [batch, 1], "int64")
        network = getattr(paddle.vision.models, names[model])(num_classes=CLASSES)
        for layer in network.sublayers():
            if isinstance(layer, paddle.nn.Dropout):
                layer.p = 0.0
        network.train()
        parameters = sum(int(np.prod(p.shape)) for p in network.parameters() if p.trainable)
        loss = paddle.mean(paddle.nn.functional.cross_entropy(network(x), label))
        optimizer = paddle.optimizer.Momentum(1e-3, 0.9, weight_decay=paddle.regularizer.L2Decay(1e-4))
        if "qat" not in contender:
            optimizer.minimize(loss)
    place = paddle.CPUPlace()
    executor = paddle.static.Executor(place)
    executor.run(startup)
    program = main
    if "qat" in contender:
        program = paddle_quant_aware(contender, main, startup, place, executor, loss, optimizer)
    feed = {
        "x": np.random.default_rng(1).standard_normal((batch, 3, size, size)).astype("float32"),
        "label": np.random.default_rng(2).integers(0, CLASSES, (batch, 1)),
    }

    def step():
        (value,) = executor.run(program, feed=feed, fetch_list=[loss])
        assert np.isfinite(value).all()

    serve(step, parameters, f"paddle {paddle.__version__}", before)


def paddle_quant_aware(contender, main, startup, place, executor, loss, optimizer):
    import paddle
    import paddleslim.quant

    def pact(x):
        threshold = paddle.static.create_parameter(
            [1],
            "float32",
            attr=paddle.ParamAttr(
                name=x.name + "_pact",
                initializer=paddle.nn.initializer.Constant(20.0),
                regularizer=paddle.regularizer.L2Decay(1e-4),
            ),
        )
        x = x - paddle.nn.functional.relu(x - threshold)
        return x + paddle.nn.functional.relu(-threshold - x)

    def pact_optimizer():
        return paddle.optimizer.Momentum(1e-3, 0.9)

    config = {
        "weight_quantize_type": "channel_wise_abs_max",
        "activation_quantize_type": "moving_average_abs_max",
        "quantize_op_types": ["conv2d", "depthwise_conv2d", "mul", "matmul", "matmul_v2"],
    }
    hooks = {}
    if contender.endswith("pact"):
        hooks = {"act_preprocess_func": pact, "optimizer_func": pact_optimizer, "executor": executor}
    with paddle.static.program_guard(main, startup):
        optimizer.minimize(loss)
    executor.run(startup)
    quantized = paddleslim.quant.quant_aware(main, place, config, for_test=False, **hooks)
    return quantized


# ---- ONNX Runtime ----


def run_ort(contender, file, batch, size, threads):
    import numpy as np
    import onnxruntime

    before = status("VmRSS")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((batch, 3, size, size)).astype(np.float32)
    feed = {session.get_inputs()[0].name: x}
    serve(lambda: session.run(None, feed), "-", f"onnxruntime {onnxruntime.__version__}", before)


def main():
    if len(sys.argv) != 7 or "--help" in sys.argv:
        raise SystemExit(__doc__)
    contender, model, file = sys.argv[1], sys.argv[2], sys.argv[6]
    batch, size, threads = map(int, sys.argv[3:6])
    try:
        if contender.startswith("torch"):
            run_torch(contender, model, batch, size, threads)
        elif contender.startswith("paddle"):
            run_paddle(contender, model, batch, size, threads)
        elif contender.startswith("ort"):
            run_ort(contender, file, batch, size, threads)
        else:
            raise ValueError(f"no contender is named {contender}")
    except Exception as e:
        answer("error", f"{type(e).__name__}: {e}".splitlines()[0])
        raise


# Only answers go to the standard output: frameworks print on it.
protocol, sys.stdout = sys.stdout, sys.stderr

if __name__ == "__main__":
    main()

"""The way of a GPU through a step of training, taken on the CPU: the host waits for nothing, the numbers are the same."""

from argparse import Namespace

import pytest
import torch
import toys
from as_on_a_gpu import Calls, take_its_way
from toys import LONG

import heads
import mlm_task
import ns_task
import qa_task
import race_task
import utils
from benchmarks import gpu
from files.mistakes import UserError
from model import BertConfig, MLMTask, NextSentenceTask, QuestionAnswerTask, RaceTask
from training import compiling, sharding
from training.compiling import compile_layers, unable
from training.optimizer import MuonAdamW
from training.ranks import Ranks, check_gpus, precision_of, settle

CORPUS = toys.corpus(*LONG)


def mixed():
    """Articles whose questions have three or four options."""
    articles = toys.articles()
    for article in articles[::2]:
        article.options = [options[:3] for options in article.options]
        article.answers = [min(answer, 2) for answer in article.answers]
    return articles


TASKS = {
    "mlm": (MLMTask, 9000, {}, lambda p: toys.blocks(CORPUS), mlm_task, "muon"),
    "ns": (NextSentenceTask, 9000, {}, lambda p: toys.pairs(CORPUS), ns_task, "muon"),
    "qa": (QuestionAnswerTask, 0, {}, lambda p: toys.windows(toys.squad(contexts=3), p), qa_task, "adamw"),
    "race": (RaceTask, 0, {}, lambda p: toys.options(toys.articles(), p), race_task, "adamw"),
    "race of three or four, dcmn": (RaceTask, 0, dict(head="dcmn", compare_options=True),
                                    lambda p: toys.options(mixed(), p), race_task, "adamw"),
    "race of three or four, joint, duma": (RaceTask, 0, dict(head="duma"),
                                           lambda p: toys.options(mixed(), p, layout="joint"), race_task, "adamw"),
}  # fmt: skip
every_task = pytest.mark.parametrize("task", TASKS)


def trainer(task, places, folder, **changes):
    cls, words, settings, examples, script, optimizer = TASKS[task]
    torch.manual_seed(0)
    model = cls(BertConfig(words or len(toys.LETTERS), 16, 2, 2, 32, max_position_embeddings=128, **settings,
                           hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))  # fmt: skip
    args = Namespace(
        parallel="None", log_dir=folder, save=str(folder / "toy.pt"), optimizer=optimizer, precision="fp32",
        weight_decay=0.01, batch_size=6, accumulate=2, minutes=None, steps=9, warmup=0.0, lr=0.01, seed=1, clip=1.0,
        save_minutes=10.0, valid_examples=None, log_interval=3, compile="off",
    )  # fmt: skip
    args = Namespace(**{**vars(args), **changes})
    named = utils.Task(task.split()[0], model, toys.LETTERS, {"train": examples(places)}, script.loss, None, None, None)
    return utils.Trainer(named, args, Ranks())


def steps(run, count):
    for (micro_batches, counts, _), _ in zip(run.work(), range(count), strict=False):
        run.step(micro_batches, counts, 0.5)
        run.state.step += 1
    return run


@pytest.mark.parametrize(("capability", "dtype"), [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16),
                                                   ((7, 5), torch.float16)])  # fmt: skip
def test_a_gpus_precision_is_bf16_where_it_multiplies_it_fast(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision_of(Namespace(precision="auto"), Ranks(device=torch.device("cuda", 0))) == dtype


@pytest.mark.parametrize(("features", "dtype"), [("avx512f amx_bf16", torch.bfloat16), ("avx512_bf16", torch.bfloat16),
                                                 ("avx2 avx512f", torch.float32)])  # fmt: skip
def test_a_cpus_precision_is_bf16_where_it_has_instructions_for_it(monkeypatch, features, dtype):
    monkeypatch.setattr("training.ranks.Path.read_text", lambda path: f"flags : fpu {features}")
    assert precision_of(Namespace(precision="auto"), Ranks()) == dtype


@every_task
def test_the_host_waits_for_nothing_in_a_step(places, tmp_path, monkeypatch, task):
    take_its_way(monkeypatch)
    run = steps(trainer(task, places, tmp_path), 1)
    micro_batches, counts, _ = next(run.work())
    with Calls() as calls:
        run.step(micro_batches, counts, 0.5)
    assert not calls.reads and sum(calls.count.values()) > 100


def test_what_makes_the_host_wait_would_be_seen():
    x, mask = torch.ones(3, requires_grad=True), torch.tensor([True, False, True])
    with Calls() as calls:
        x[mask].sum().backward()
        float(x.sum())
        mask.nonzero()
    assert calls.reads == {"aten::_local_scalar_dense": 1, "aten::nonzero": 3}


@every_task
def test_the_way_of_a_gpu_gives_the_numbers_of_a_cpu(places, tmp_path, monkeypatch, task):
    on_cpu = steps(trainer(task, places, tmp_path), 4)
    take_its_way(monkeypatch)
    monkeypatch.setattr(sharding, "half_of_all", lambda ranks: torch.float32)  # Muon's products there
    run = steps(trainer(task, places, tmp_path), 4)
    assert len(run.unread) == 1 and len(run.state.recent) == 3  # the last one may be at work
    run.read_steps()
    for one, other in zip(run.state.recent, on_cpu.state.recent, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    for one, other in zip(run.engine.model.parameters(), on_cpu.engine.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted_one_step_later(places, tmp_path, monkeypatch):
    take_its_way(monkeypatch)
    run = steps(trainer("mlm", places, tmp_path), 2)
    weights, averages = ({name: value.clone() for name, value in values.items()} for values in
                         (run.engine.model.state_dict(), numbered(run)))  # fmt: skip
    loss = run.task.loss
    run.task.loss = lambda model, batch: loss(model, batch) * float("nan")
    steps(run, 1)
    assert run.state.bad == 0
    assert all(torch.equal(value, weights[name]) for name, value in run.engine.model.state_dict().items())
    assert all(torch.equal(value, averages[name]) for name, value in numbered(run).items())
    run.task.loss = loss
    steps(run, 1)
    assert (run.state.bad, run.state.skipped) == (1, 1)
    run.read_steps()
    assert (run.state.bad, run.state.skipped) == (0, 1)
    assert not any(torch.equal(p, weights[name]) for name, p in run.engine.model.named_parameters() if p.dim() == 2)


def test_clipping_and_weight_decay_are_those_of_the_flags(places, tmp_path, monkeypatch):
    asked, clip = [], sharding.clip
    monkeypatch.setattr(sharding, "clip", lambda model, largest: asked.append(largest) or clip(model, largest))
    run = steps(trainer("mlm", places, tmp_path, clip=0.37, weight_decay=0.2), 1)
    assert asked == [0.37] and {group["weight_decay"] for group in run.engine.optimizer.param_groups} == {0.2, 0.0}


def numbered(run):
    """All that the optimizer keeps, but for Muon's steps, which nobody reads."""
    return {(number, name): value for number, values in run.engine.optimizer.state_dict()["state"].items()
            for name, value in values.items() if "momentum" not in values or name != "step"}  # fmt: skip


def test_ranks_share_the_products_of_matrices_of_a_shape(monkeypatch):
    torch.manual_seed(0)
    same, directions = [torch.nn.Parameter(torch.randn(12, 4)) for _ in range(5)], torch.randn(5, 12, 4)
    for parameter in same:
        parameter.joined = True
    optimizer = MuonAdamW([{"params": same, "muon": True}], lr=0.1, shared=True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda _: None)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(optimizer.steps_of_all(directions, same))
    assert torch.stack(shares).count_nonzero() == directions.numel()  # nothing is made twice
    torch.testing.assert_close(sum(shares), optimizer.orthogonal(directions, same[0]))


@pytest.mark.parametrize("task", ["mlm", "qa"])
def test_compiled_layers_keep_the_names_of_their_weights_and_compute_the_same(places, tmp_path, monkeypatch, task):
    plain = steps(trainer(task, places, tmp_path), 2)
    compiled, compile = [], torch.compile
    try:
        compile(lambda x: x, backend="eager")
    except RuntimeError as error:  # torch 2.3 under Python 3.12
        pytest.skip(str(error))
    monkeypatch.setattr(compiling, "unable", lambda device: "")
    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled.append(function) or compile(
        function, backend="eager", **options))  # fmt: skip
    run = steps(trainer(task, places, tmp_path, compile="on"), 2)
    assert len(compiled) == 2
    one, other = plain.engine.content()["model"], run.engine.content()["model"]
    assert list(one) == list(other)
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], atol=1e-4, rtol=0)


def test_layers_are_compiled_on_a_gpu_unless_told_otherwise_or_for_a_few_minutes(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: "compiled")
    monkeypatch.setattr(compiling, "unable", lambda device: "")
    for wanted, device, minutes, compiled in [
        ("auto", "cuda", None, 1), ("auto", "cuda", 10, 1), ("auto", "cuda", 9, 0), ("auto", "cpu", None, 0),
        ("on", "cuda", 1, 1), ("on", "cpu", None, 1), ("off", "cuda", None, 0),
    ]:  # fmt: skip
        model, args = MLMTask(BertConfig(50, 16, 1, 2)), Namespace(compile=wanted, parallel="DDP", minutes=minutes)
        compile_layers(model, args, Ranks(device=torch.device(device)))
        assert (model.bert.layers[0].forward == "compiled") == compiled
        assert (model.into_gradient == "compiled") == (compiled and device == "cuda")


def test_where_torch_cannot_compile_a_run_goes_on_without_unless_it_was_asked_for(monkeypatch, capsys):
    def compile(function, **options):
        raise RuntimeError("\nno C compiler\nand much more")

    monkeypatch.setattr(torch, "compile", compile)
    model = MLMTask(BertConfig(50, 16, 1, 2))
    assert unable(torch.device("cpu")) == "no C compiler"
    monkeypatch.setattr(compiling, "unable", lambda device: "no C compiler")
    compile_layers(model, Namespace(compile="auto", parallel="DDP"), Ranks(device=torch.device("cuda")))
    assert "not compiled, for torch cannot here (no C compiler)" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--compile on: torch cannot compile here \(no C compiler\)"):
        compile_layers(model, Namespace(compile="on", parallel="None"), Ranks())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_to_the_gradient_of_logits_are_one(dtype):
    torch.manual_seed(0)
    logits, bias, labels = torch.randn(7, 30).to(dtype), torch.randn(30), torch.randint(30, (7,))
    other = logits.clone()
    expected, found = heads.into_gradient(logits, bias, labels), heads.into_gradient_at_once(other, bias, labels)
    for one, two in zip((logits, *expected), (other, *found), strict=True):
        torch.testing.assert_close(one, two)


def test_a_gpus_batch_of_scores_is_by_its_memory_and_not_by_the_batch_of_training(monkeypatch):
    args, data = Namespace(precision="fp32", batch_size=4096, accumulate=1), Namespace(longest=128)
    model = MLMTask(BertConfig(100, 64, 1, 1))
    on_cpu = utils.Computer(args, Ranks())
    assert on_cpu.at_once(model, data) == 16
    take_its_way(monkeypatch)
    token = 4 * (8 * 64 + 3 * 256)
    for memory, count in ((4 * 128 * token * 20, 20), (1 << 50, 512), (1, 1)):
        monkeypatch.setattr(utils, "memory_of", lambda device, memory=memory: memory)
        assert utils.Computer(args, Ranks()).at_once(model, data) == count


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_the_same_in_larger_batches_without_masks_that_hide_nothing(places, tmp_path, monkeypatch, task):
    run = trainer(task, places, tmp_path)
    run.task.rows = TASKS[task][4].rows if task != "qa" else qa_task.make_rows(5, 10)
    expected = run.compute.rows(run.task, "train", 20)
    take_its_way(monkeypatch)
    other = trainer(task, places, tmp_path)
    other.task.rows = run.task.rows
    found = other.compute.rows(other.task, "train", 20)
    assert [index for index, _ in found] == [index for index, _ in expected]
    assert (found[0][0], found[-1][0]) == (0, len(run.task.examples["train"]) - 1)  # spread over all
    for (_, one), (_, two) in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.tensor(numbers(one)), torch.tensor(numbers(two)), atol=1e-4, rtol=1e-4)


def numbers(row):
    """All numbers of a row, which is made of lists and tuples."""
    return [x for part in row for x in numbers(part)] if isinstance(row, list | tuple) else [float(row)]


def test_deterministic_tf32_and_no_attention_by_cudnn_are_asked_of_a_gpu_only(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_, **__: asked.append("deterministic"))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", lambda wanted: asked.append(f"cuDNN {wanted}"))
    for device, precision, deterministic in (("cpu", "bf16", True), ("cuda", "bf16", False), ("cuda", "tf32", True)):
        settle(Namespace(precision=precision, deterministic=deterministic), torch.device(device))
    assert asked == ["cuDNN False", "cuDNN False", "high", "deterministic"]
    with pytest.raises(UserError, match="--precision tf32: needs a GPU"):
        precision_of(Namespace(precision="tf32"), Ranks())


def test_the_benchmark_for_gpus_runs_on_a_cpu_and_says_where_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)  # no transformers, no pytest
    device = torch.device("cpu")
    for task, contestants in (("mlm", ["ours"]), ("squad", ["ours", "ours, not compiled"])):
        lines = [*gpu.training(task, "tiny", 32, 2, device, True)]
        assert all(f" {name} " in line and "tokens/s" in line for name, line in zip(contestants, lines, strict=True))
    assert "left out" in gpu.tests(device, True)[0] and "left out" in gpu.overflows(device, True)[0]
    agreed = gpu.agreement(device, True)[0]
    assert agreed.endswith("within 0.01") and "NOT" not in agreed
    assert gpu.repeated(device, True) == ["--deterministic, twice: the same bits"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    gpu.main()
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(("gpus", "variable", "shared"), [
    (1, None, True), (2, None, True), (4, None, False),  # torchrun shows all of them to each of four ranks
    (1, "SLURM_STEP_ID", False), (2, "SLURM_STEP_ID", True), (2, "SLURM_GPUS_PER_TASK", False),
    (1, "CUDA_VISIBLE_DEVICES", False), (2, "CUDA_VISIBLE_DEVICES", True),
    (1, "SLURM_STEP_ID TORCHELASTIC_RUN_ID", True),  # by a torchrun within a task of Slurm's, whose these are
    (2, "SLURM_STEP_ID SLURM_GPUS_PER_TASK TORCHELASTIC_RUN_ID", True),
])  # fmt: skip
def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch, gpus, variable, shared):
    for name in ("SLURM_STEP_ID", "SLURM_GPUS_PER_TASK", "CUDA_VISIBLE_DEVICES", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in (variable or "").split():
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if shared:
        with pytest.raises(UserError, match=f"4 ranks on .*, and GPUs for {gpus} of them; start one"):
            check_gpus(torch.device("cuda", 0))
    else:
        check_gpus(torch.device("cuda", 0))

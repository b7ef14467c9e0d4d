"""From what a user asked to a plan and its forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halfpint.checkpoints import CONTAINERS
from halfpint.checkpoints.checkpoint import Checkpoint, Container
from halfpint.errors import UnsupportedError, UsageError
from halfpint.families import find
from halfpint.formats.plain import Plain
from halfpint.kernels.machine import one_blas_thread
from halfpint.measuring.comparison import known_config
from halfpint.pipeline.choosing.measured_sensitivity import sense
from halfpint.pipeline.choosing.memory_forecast import limits_within, peak_bytes
from halfpint.pipeline.choosing.time_forecast import comparison_seconds, job_seconds
from halfpint.pipeline.job.calibrated_solving import is_needed
from halfpint.pipeline.looking.measurement import calibration_tokens, reads_text
from halfpint.pipeline.options import CALIBRATED_PARAMETERS, MeasureOptions, Progress, QuantizeOptions, silent
from halfpint.pipeline.results import PlanResult
from halfpint.planning import engines, plan_file
from halfpint.planning.budget import Group
from halfpint.planning.candidates import CostOf, candidates, plan_within, smallest_plan
from halfpint.planning.memory import MemoryNeed, memory_need
from halfpint.planning.planner import Wish, make_plan, model_parameters
from halfpint.planning.sensitivity import Sensitivity, assumed_costs, measured_costs
from halfpint.plans import Plan


@dataclass(frozen=True, slots=True)
class ByteBudget:
    """A budget in bytes of the output.

    Attributes
    ----------
    nbytes : int
    need : MemoryNeed or None
        Where the rest of the memory goes, when that was the budget.
    """

    nbytes: int
    need: MemoryNeed | None = None


def decide(checkpoint: Checkpoint, options: QuantizeOptions, progress: Progress = silent) -> PlanResult:
    """Make the plan that was asked for.

    Raises
    ------
    UsageError, UnsupportedError
        If the request cannot be met.
    RoomError
        If a budget is too small, or the job would take more memory than it may.
    """
    if options.searches:
        raise UsageError(
            "the smallest file that keeps --keep or --max-kl is found by making some; for a plan say --size, --bpw, "
            "--fit, --bits or --format"
        )
    if options.budget.wanted:
        room = byte_budget(checkpoint, options)
        prices = estimate_costs(checkpoint, options, progress, room.nbytes)
        return forecast(checkpoint, options, prices.within(room.nbytes), room.need, prices)
    made = make_plan(checkpoint, CONTAINERS[options.container], wish(checkpoint, options))
    problem = estimate_costs(checkpoint, options, progress) if options.explains else None
    return forecast(checkpoint, options, made, problem=problem)


def wish(checkpoint: Checkpoint, options: QuantizeOptions) -> Wish:
    """What was asked, in the words of planning; a plan file is read and held against the model."""
    wished = options.wish(calibrates(checkpoint, options))
    if options.plan_file is None:
        return wished
    file = plan_file.read(options.plan_file)
    plan_file.check_model(file, checkpoint, str(options.plan_file))
    if file.container != options.container:
        raise UsageError(f"{options.plan_file} is a plan for {file.container}, not for {options.container}; use --to")
    return Wish(rules=wished.rules, calibrate=wished.calibrate, assigned=file.tensors)


def byte_budget(checkpoint: Checkpoint, options: QuantizeOptions) -> ByteBudget:
    """Turn a budget into bytes of the output."""
    budget = options.budget
    if budget.memory_bytes:
        need = memory_need(known_config(checkpoint), budget.memory_bytes, budget.context_tokens, options.engine)
        return ByteBudget(need.weights_bytes, need)
    if budget.size_bytes:
        return ByteBudget(budget.size_bytes)
    return ByteBudget(int(budget.bits_per_weight * model_parameters(checkpoint) / 8))


@dataclass(frozen=True, slots=True)
class AllocationProblem:
    """What a budget may buy, and at what price.

    Attributes
    ----------
    checkpoint : Checkpoint
    container : Container
        Of the output.
    wish : Wish
        What holds beside the budget: rules, and whether linear layers are calibrated.
    groups : tuple of Group
    cost_of : CostOf
    sensed : Sensitivity or None
        What was measured: costs are nats of KL then, and else good for comparing only.
    """

    checkpoint: Checkpoint
    container: Container
    wish: Wish
    groups: tuple[Group, ...]
    cost_of: CostOf
    sensed: Sensitivity | None

    def within(self, nbytes: int) -> Plan:
        """The best mixture that whole has at most so many bytes."""
        return plan_within(self.checkpoint, self.container, self.wish, self.groups, nbytes)

    def smallest(self) -> Plan:
        """The mixture that gives every group its smallest format."""
        return smallest_plan(self.checkpoint, self.container, self.wish, self.groups)

    def costs(self, plan: Plan) -> Mapping[str, float]:
        """What the matrices of a plan cost, whoever made it; those that stay as they are cost nothing."""
        specs = self.checkpoint.tensors
        return {
            tensor.name: 0.0 if tensor.format == specs[tensor.name].format else self.cost_of(tensor.name, tensor.format)
            for tensor in plan.tensors
            if len(tensor.shape) == 2
        }

    def cost(self, plan: Plan) -> float:
        """What a plan costs: the sum over its tensors."""
        return sum(self.costs(plan).values())


def estimate_costs(
    checkpoint: Checkpoint, options: QuantizeOptions, progress: Progress = silent, budget_bytes: int | None = None
) -> AllocationProblem:
    """Measure what every group of tensors that a budget may decide on would cost in each format.

    With --no-calibrate nothing is measured: every parameter is taken to matter the same.

    Raises
    ------
    RoomError
        If not even the smallest formats keep to a budget, which is known before anything is measured.
    UnsupportedError
        If there is no measuring this model.
    """
    container = CONTAINERS[options.container]
    calibrated = calibrates(checkpoint, options)
    wished = options.wish(calibrated)
    found = candidates(checkpoint, container, wished, options.engine)
    sensed, assumed = None, assumed_costs(checkpoint)
    if budget_bytes is not None:
        smallest_plan(checkpoint, container, wished, [candidate.group(assumed) for candidate in found], budget_bytes)
    if options.calibrate is not False:
        try:
            with one_blas_thread():
                sensed = sense(checkpoint, found, options.calibration, calibrated, progress)
        except UnsupportedError as error:
            raise UnsupportedError(
                f"{error}; so there is no measuring which tensors matter: with --no-calibrate all are taken to matter "
                "the same"
            ) from error
    cost_of = assumed if sensed is None else measured_costs(sensed)
    groups = tuple(candidate.group(cost_of) for candidate in found)
    return AllocationProblem(checkpoint, container, wished, groups, cost_of, sensed)


def forecast(
    checkpoint: Checkpoint,
    options: QuantizeOptions,
    made: Plan,
    memory: MemoryNeed | None = None,
    problem: AllocationProblem | None = None,
) -> PlanResult:
    """Say who can load a plan's output, what making it will take, and what it will do to the model's answers.

    Raises
    ------
    UnsupportedError
        If the engine that was asked for cannot load it.
    RoomError
        If the job would take more memory than it may.
    """
    refusals = engines.refusals(made, checkpoint.config)
    if options.engine in refusals:
        raise UnsupportedError(f"{options.engine} cannot load this: {refusals[options.engine]}")
    tokens = options.calibration.tokens or calibration_tokens(checkpoint)
    limits = limits_within(checkpoint, made, tokens, options.max_memory_bytes)
    by_tensor = problem.costs(made) if problem is not None and problem.sensed is not None else {}
    return PlanResult(
        plan=made,
        original_bytes=checkpoint.weight_bytes,
        engines=engines.loaders(made, checkpoint.config),
        refusals=refusals,
        peak_memory_bytes=peak_bytes(checkpoint, made, tokens, limits),
        seconds=job_seconds(checkpoint, made, tokens),
        comparison_seconds=comparison_seconds(checkpoint, made, options.measure or MeasureOptions()),
        original_bits=_quantized_bits(checkpoint),
        kl_mean=sum(by_tensor.values()) if by_tensor else None,
        memory=memory,
        kl_by_tensor=by_tensor,
        sensed=None if problem is None else problem.sensed,
        limits=limits,
        calibration_tokens=tokens if is_needed(made) else 0,
    )


def _quantized_bits(checkpoint: Checkpoint) -> float:
    """Bits per weight of those tensors that are quantized already; 0 when none is."""
    specs = [
        spec for spec in checkpoint.tensors.values() if spec.format is not None and not isinstance(spec.format, Plain)
    ]
    return 8 * sum(spec.nbytes for spec in specs) / sum(spec.parameters for spec in specs) if specs else 0.0


def calibrates(checkpoint: Checkpoint, options: QuantizeOptions) -> bool:
    """Whether this job looks at text: as asked, or where it takes minutes."""
    if options.calibrate is not None:
        return options.calibrate
    weights = sum(spec.parameters for spec in checkpoint.tensors.values())
    return weights <= CALIBRATED_PARAMETERS and find(checkpoint.config) is not None and reads_text(checkpoint)

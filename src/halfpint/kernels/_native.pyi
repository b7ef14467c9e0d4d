"""Types of the native module (native/bind_*.cpp)."""

from halfpint.tensors import Array, FloatArray

def cpu_features() -> list[str]: ...
def active_isa() -> str: ...
def best_isa() -> str: ...
def force_isa(name: str) -> bool: ...
def thread_count() -> int: ...
def set_thread_count(count: int) -> None: ...
def read_bandwidth(memory: Array, rounds: int) -> float: ...
def integer_peak(rounds: int) -> float: ...
def integer_instruction() -> str: ...
def encode_isa() -> str: ...
def encode_blocks(
    type_id: int,
    weight: Array,
    halves: bool,
    importance: FloatArray | None,
    targets: tuple[FloatArray, FloatArray],
    blocks: Array,
) -> None: ...
def decode_blocks(type_id: int, blocks: Array, out: FloatArray) -> None: ...
def largest_magnitude(weight: Array, halves: bool) -> float: ...
def linear_isa() -> str: ...

class PackedWeight:
    """A weight in its compact bytes; keeps the arrays it was made from alive."""

    def __init__(self, kind: str, data: Array, rows: int, columns: int) -> None: ...
    def set_codebook(
        self,
        levels: FloatArray,
        scales: Array,
        scale_kind: str,
        group_columns: int,
        rows_per_scale: int,
        zero_points: Array | None,
        scale_table: FloatArray | None,
    ) -> None: ...
    def forward(self, x: FloatArray, out: FloatArray) -> None: ...
    def decode(self, first_row: int, out: FloatArray) -> None: ...
    def gather(self, ids: Array, out: FloatArray) -> None: ...

class GroupSearch:
    """Where the scales of one format are searched; kinds are those of native/isa/groups.hpp."""

    def __init__(
        self,
        group: tuple[int, int],
        codes: tuple[int, float, float],
        scales: tuple[int, float, float],
        start_kind: int,
        starts: FloatArray,
        steps: FloatArray,
        refits: int,
    ) -> None: ...

def encode_groups(
    search: GroupSearch,
    weight: Array,
    halves: bool,
    importance: FloatArray | None,
    shared_scale: float,
    codes: Array,
    scales: Array,
    zero_points: Array | None,
) -> None: ...
def decode_codes(
    codes: Array,
    values: FloatArray,
    scales: FloatArray,
    zero_points: FloatArray | None,
    shared: tuple[int, int],
    out: FloatArray,
) -> None: ...
def solve_isa() -> str: ...

class Lattice:
    """The values that a format can give, in numbers (native/isa/solve.hpp); keeps copies of its tables."""

    def __init__(
        self,
        levels: FloatArray,
        subscales: FloatArray,
        submins: FloatArray,
        minimum: int,
        holder: tuple[int, float, float],
        widths: tuple[int, int],
    ) -> None: ...

def feed_back(
    lattice: Lattice,
    weight: FloatArray,
    factor: FloatArray,
    scale: FloatArray,
    offset: FloatArray,
    indices: Array,
    errors: FloatArray,
) -> None: ...
def refine(
    lattice: Lattice,
    gradient: FloatArray,
    moments: FloatArray,
    rounds: int,
    indices: Array,
    scales: tuple[FloatArray, FloatArray],
    subs: tuple[Array, Array],
    change: FloatArray,
) -> None: ...

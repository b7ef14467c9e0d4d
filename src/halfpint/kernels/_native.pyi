"""Types of the native module (native/bind_*.cpp)."""

from halfpint.tensors import Array, FloatArray

def cpu_features() -> list[str]: ...
def active_isa() -> str: ...
def best_isa() -> str: ...
def force_isa(name: str) -> bool: ...
def thread_count() -> int: ...
def set_thread_count(count: int) -> None: ...
def keep_freed_memory(kept_bytes: int) -> None: ...
def processor_quota(root: str) -> int: ...
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

def integer_isa() -> str: ...

class IntegerActivations:
    """Activations in 8 bits, made when first used; keeps the array they are made from alive."""

    def __init__(self, x: FloatArray) -> None: ...
    @property
    def tokens(self) -> int: ...
    @property
    def columns(self) -> int: ...
    def copy_rounded(self, codes: Array, scales: FloatArray) -> None: ...
    def copy_tiles(self, codes: Array, scales: FloatArray) -> None: ...

class PackedIntegers:
    """A weight in the layout of native/isa/integer.hpp; owns its memory."""

    def __init__(
        self,
        kind: str,
        rows: int,
        columns: int,
        scale: str,
        scale_columns: int,
        zero_points: bool,
        levels: FloatArray | None,
        outer: float,
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    def pack(self, data: Array, scales: Array | None, zero_points: Array | None, scale_columns: int) -> None: ...
    def forward_tiles(self, x: IntegerActivations, out: FloatArray) -> None: ...
    def decode(self, out: FloatArray) -> None: ...
    def gather(self, ids: Array, out: FloatArray) -> None: ...

def multiply_integers(weights: list[PackedIntegers], x: IntegerActivations, outs: list[FloatArray]) -> None: ...

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
def attention_isa() -> str: ...

class KeyValues:
    """Keys and values of one text in one layer (native/bind_attention.cpp)."""

    def __init__(self, kind: str, kv_heads: int, head_dim: int) -> None: ...
    @property
    def length(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def stored_bytes(self, length: int) -> int: ...
    def append(self, keys: FloatArray, values: FloatArray) -> None: ...
    def attend(self, queries: FloatArray, scale: float, window: int, cap: float, out: FloatArray) -> None: ...
    def truncate(self, length: int) -> None: ...
    def read(self, start: int, keys: FloatArray, values: FloatArray) -> None: ...
    def save(self, out: Array) -> None: ...
    def restore(self, pages: Array, length: int) -> None: ...

def elementwise_isa() -> str: ...
def rms_norm(x: FloatArray, weight: FloatArray, epsilon: float, out: FloatArray) -> None: ...
def rotate(x: FloatArray, head_dim: int, cosines: FloatArray, sines: FloatArray) -> None: ...
def gate(activation: int, gates: FloatArray, ups: FloatArray, out: FloatArray) -> None: ...
def add(into: FloatArray, more: FloatArray) -> None: ...

class DecoderBlock:
    """A block of a decoder for few tokens (native/decoder_block.hpp); keeps its weights alive."""

    def __init__(
        self,
        sizes: tuple[int, int, int, int, int],
        numbers: tuple[float, float, float],
        window: int,
        activation: int,
        norms: dict[str, FloatArray],
        projections: tuple[
            list[tuple[PackedIntegers, FloatArray | None]],
            list[tuple[PackedIntegers, FloatArray | None]],
            list[tuple[PackedIntegers, FloatArray | None]],
            list[tuple[PackedIntegers, FloatArray | None]],
        ],
    ) -> None: ...

class DecoderBlocks:
    """All blocks of a decoder, one after the other."""

    def __init__(self, blocks: list[DecoderBlock], angle_kinds: list[int]) -> None: ...
    def forward(
        self,
        hidden: FloatArray,
        texts: list[tuple[list[KeyValues], int]],
        angles: list[tuple[FloatArray, FloatArray]],
    ) -> None: ...

"""What a token costs at least: the bytes of weights that must be read for it, and the operations on them."""

from __future__ import annotations

from dataclasses import dataclass

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.weights import model_tensors
from halfpint.families import LINEAR_ROLES, ModelConfig, Role, TensorRole

_EXPERT_ROLES = frozenset({Role.EXPERT_GATE, Role.EXPERT_UP, Role.EXPERT_DOWN})


@dataclass(frozen=True, slots=True)
class TokenCost:
    """The least work of one token.

    Attributes
    ----------
    weight_bytes : float
        Bytes of weights, as they are in the file, that one step of one sequence reads: all but the embedding's table,
        of which only a row is read, and of experts only those that a token is sent to.
    block_operations : float
        Multiplications and additions, counted apart, of the products in the blocks.
    head_operations : float
        The same in the head, which a prompt needs for its last token only.
    """

    weight_bytes: float
    block_operations: float
    head_operations: float

    def prompt_operations(self, tokens: int) -> float:
        """Operations of a prompt."""
        return tokens * self.block_operations + self.head_operations


def token_cost(checkpoint: Checkpoint, config: ModelConfig) -> TokenCost:
    """Count the work of a token from the headers of a checkpoint and its configuration.

    Tensors that the checkpoint lacks count nothing: loading the model is what refuses it.
    """
    weight_bytes = block_operations = head_operations = 0.0
    for tensor in model_tensors(config):
        spec = checkpoint.tensors.get(tensor.name)
        if spec is None:
            continue
        used = _used(tensor, config)
        weight_bytes += used * spec.nbytes
        if tensor.role in LINEAR_ROLES or tensor.role is Role.ROUTER:
            block_operations += 2 * used * spec.parameters
        elif tensor.role in (Role.HEAD, Role.EMBEDDING):
            head_operations += 2 * used * spec.parameters
    return TokenCost(weight_bytes, block_operations, head_operations)


def _used(tensor: TensorRole, config: ModelConfig) -> float:
    """Part of a tensor that a token uses, on average."""
    if tensor.role in _EXPERT_ROLES:
        return config.experts_per_token / config.experts
    if tensor.role is Role.EMBEDDING:
        return 1.0 if config.tied_embeddings else 0.0
    return 1.0

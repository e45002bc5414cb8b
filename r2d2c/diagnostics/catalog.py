"""Every diagnostic code, from the literal tables of the stages. `r2d2c explain CODE` prints an entry."""

from __future__ import annotations

from r2d2c.diagnostics.codes_data import DATA
from r2d2c.diagnostics.codes_distillation import DISTILLATION
from r2d2c.diagnostics.codes_distributed import DISTRIBUTED
from r2d2c.diagnostics.codes_eprop import EPROP
from r2d2c.diagnostics.codes_export import EXPORT
from r2d2c.diagnostics.codes_file import FILE
from r2d2c.diagnostics.codes_generate import GENERATE
from r2d2c.diagnostics.codes_goodness import GOODNESS
from r2d2c.diagnostics.codes_growth import GROWTH
from r2d2c.diagnostics.codes_hypernets import HYPERNETS
from r2d2c.diagnostics.codes_loops import LOOPS
from r2d2c.diagnostics.codes_memories import MEMORIES
from r2d2c.diagnostics.codes_names import NAMES
from r2d2c.diagnostics.codes_op_graphs import OP_GRAPHS
from r2d2c.diagnostics.codes_op_places import OP_PLACES
from r2d2c.diagnostics.codes_optimization import OPTIMIZATION
from r2d2c.diagnostics.codes_pipeline import PIPELINE
from r2d2c.diagnostics.codes_places import PLACES
from r2d2c.diagnostics.codes_rules import RULES
from r2d2c.diagnostics.codes_runs import RUNS
from r2d2c.diagnostics.codes_shapes import SHAPES
from r2d2c.diagnostics.codes_sizes import SIZES
from r2d2c.diagnostics.codes_sources import SOURCES
from r2d2c.diagnostics.codes_state import STATE
from r2d2c.diagnostics.codes_sweeps import SWEEPS
from r2d2c.diagnostics.codes_syntax import SYNTAX
from r2d2c.diagnostics.codes_tasks import TASKS
from r2d2c.diagnostics.codes_training import TRAINING
from r2d2c.diagnostics.codes_transplant import TRANSPLANT
from r2d2c.diagnostics.entry import Entry

CATALOG: dict[str, Entry] = {
    entry.code: entry
    for table in (
        FILE,
        SYNTAX,
        NAMES,
        LOOPS,
        MEMORIES,
        EPROP,
        GROWTH,
        TRANSPLANT,
        DISTRIBUTED,
        HYPERNETS,
        OP_GRAPHS,
        OP_PLACES,
        PLACES,
        DISTILLATION,
        SHAPES,
        TASKS,
        GOODNESS,
        RULES,
        DATA,
        TRAINING,
        SOURCES,
        PIPELINE,
        OPTIMIZATION,
        GENERATE,
        SWEEPS,
        SIZES,
        STATE,
        RUNS,
        EXPORT,
    )
    for entry in table
}

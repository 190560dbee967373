from .__about__ import __version__ as __version__
from .task import Task as Task
from .task import TaskSource as TaskSource
from .tasks.lists import Lists as Lists
from .verdict import Verdict as Verdict
from .verdict import Verifier as Verifier
from .verdict import verify as verify
from .verifiers.derivation import Derivation as Derivation

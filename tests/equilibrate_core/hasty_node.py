"""One node that does not wait long for others' errors: for test_train_node alone."""

from equilibrate_core import node_errors
from equilibrate_core.train_node import main

if __name__ == "__main__":
    node_errors.PEERS_TELL_S = 5.0
    raise SystemExit(main())

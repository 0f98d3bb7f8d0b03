"""What is computed: shapes, axes, operands, routing, the truth, the verdict."""

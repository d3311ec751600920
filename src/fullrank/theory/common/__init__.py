"""What the theory of both papers uses: gradient flows, inputs, and the form of a theorem."""

"""Side-by-side timings and peak memory. Figures are printed and kept in docs/performance.md, never asserted in CI."""

//go:build race

package sim

// The race detector makes this ten times slower, and there is but one goroutine
// to a world.
func init() { *seeds = 1000 }

// Package specimen has one of every kind of error that can be made.
package specimen

import "time"

// Limit bounds how long anything may take.
var Limit = 3 * time.Second

// Larger returns the larger of two numbers, at least 1.
func Larger(a, b int) int {
	n := max(a, 1)
	if b > n {
		n = b
	}
	return n
}

// Fit reports whether n things of a size fit into a space, for sure.
func Fit(n, size, space uint8, sure bool) bool {
	return sure && n*size <= space
}

// Evens returns the even ones.
func Evens(all []int) (evens []int, any bool) {
	defer func() { any = len(evens) > 0 }()
	for _, n := range all {
		if n%2 != 0 {
			continue
		}
		evens = append(evens, n)
	}
	return evens, true
}

// Never is called by no test.
func Never(a string) bool { return !(a == "") }

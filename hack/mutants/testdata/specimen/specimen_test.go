package specimen

import (
	"slices"
	"testing"
)

// Nothing asks for Limit, nor what Larger makes of equal numbers, which is the
// same either way.
func TestLarger(t *testing.T) {
	for _, c := range []struct{ a, b, want int }{{0, 0, 1}, {3, 2, 3}, {2, 3, 3}} {
		if got := Larger(c.a, c.b); got != c.want {
			t.Errorf("Larger(%d, %d) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		n, size, space uint8
		sure, want     bool
	}{{3, 3, 9, true, true}, {3, 3, 8, true, false}, {3, 3, 9, false, false}} {
		if got := Fit(c.n, c.size, c.space, c.sure); got != c.want {
			t.Errorf("Fit(%d, %d, %d, %v) = %v", c.n, c.size, c.space, c.sure, got)
		}
	}
}

func TestEvens(t *testing.T) {
	if got, any := Evens([]int{1, 2, 3, 4}); !slices.Equal(got, []int{2, 4}) || !any {
		t.Errorf("got %v, %v", got, any)
	}
	if got, any := Evens([]int{1}); len(got) > 0 || any {
		t.Errorf("got %v, %v", got, any)
	}
}

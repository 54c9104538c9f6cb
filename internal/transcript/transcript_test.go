package transcript

import "testing"

// echo prints each line that is no order to be quiet.
type echo struct{}

func (echo) Line(line string) string {
	if line == "quiet" {
		return ""
	}
	return line + "!\n"
}

func TestWhatLinesPrintStandsBelowThem(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a\nb\n----\nold\n", "a\nb\n----\na!\nb!\n"},
		{"# said\nquiet\n\na\n----\n", "# said\nquiet\n\na\n----\na!\n"},
		{"quiet\n----\nold", "quiet\n----\n"},
	} {
		if got := play(t, c.text, echo{}); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.text, got, c.want)
		}
	}
}

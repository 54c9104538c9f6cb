package main

import (
	"slices"
	"strings"
	"testing"
)

func TestAWrongCommandLineIsRefusedWithAllThatIsWrong(t *testing.T) {
	_, err := parse([]string{"--for=0", "--loss=1", "--services=51"})
	if err == nil {
		t.Fatal("it is accepted")
	}
	for _, part := range []string{"--for", "--loss", "--services"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("nothing about %s in %q", part, err)
		}
	}
}

func TestADifferenceIsWhatHasGrown(t *testing.T) {
	before := map[string]float64{`node1 change="took-over"}`: 1, `node2 change="dropped"}`: 2}
	after := map[string]float64{`node1 change="took-over"}`: 3, `node2 change="dropped"}`: 2, `node3 change="acquired"}`: 1}
	if got, want := difference(before, after), []string{`node1 change="took-over" 2`, `node3 change="acquired" 1`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := difference(after, after); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

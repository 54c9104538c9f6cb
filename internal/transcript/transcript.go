// Package transcript runs the histories that tests of decisions are written as. It is
// for tests only.
//
// A file is a series of blocks, separated by blank lines. A block is lines that say
// what happens, then "----", then what came of them. Lines that start with # are
// comments. With -rewrite what came of them is written into the files, to be reviewed
// as code is.
package transcript

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what transcripts print into testdata instead of comparing it")

// A World is what happens in one file: it takes a line and returns what it prints.
type World interface {
	Line(line string) (prints string)
}

// Run runs each file that matches a pattern in a World of its own.
func Run(t *testing.T, pattern string, world func(*testing.T) World) {
	t.Helper()
	RunWithin(t, pattern, func(t *testing.T, file func(*testing.T)) { file(t) }, world)
}

// RunWithin is Run with each file inside of something, such as synctest.Test.
func RunWithin(t *testing.T, pattern string, within func(*testing.T, func(*testing.T)), world func(*testing.T) World) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts match %s: %v", pattern, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			within(t, func(t *testing.T) { got = play(t, string(text), world(t)) })
			switch {
			case got == string(text):
			case *rewrite:
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			default:
				t.Errorf("%s differs; run with -rewrite and review. Got:\n%s", file, got)
			}
		})
	}
}

// play returns a text with what it prints now.
func play(t *testing.T, text string, w World) string {
	t.Helper()
	var out []string
	for block := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		input, _, prints := strings.Cut(block, "\n----")
		var printed strings.Builder
		for line := range strings.Lines(input) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				printed.WriteString(w.Line(line))
			}
		}
		switch {
		case prints:
			input = strings.TrimRight(input+"\n----\n"+printed.String(), "\n")
		case printed.Len() > 0:
			t.Fatalf("block without ---- prints:\n%s\n%s", input, printed.String())
		}
		out = append(out, input)
	}
	return strings.Join(out, "\n\n") + "\n"
}

// Duration reads a duration that a line gives; none given is zero.
func Duration(t *testing.T, s string) time.Duration {
	t.Helper()
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Number reads a number that a line may give.
func Number(t *testing.T, s string, otherwise int) int {
	t.Helper()
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

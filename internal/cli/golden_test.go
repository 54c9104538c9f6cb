package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

var rewrite = flag.Bool("rewrite", false, "write the golden outputs instead of comparing")

// run runs a command line and returns what it prints, errors included, and its exit code.
func run(t *testing.T, stdin string, args ...string) (output string, code int) {
	t.Helper()
	var out bytes.Buffer
	code = Run(t.Context(), args, genericiooptions.IOStreams{In: strings.NewReader(stdin), Out: &out, ErrOut: &out}, false, "test")
	return out.String(), code
}

// transcript runs the commands of a transcript, on the healthy world and what the
// transcript's own objects make of it, and returns it with what they print.
func transcript(t *testing.T, text, name string) string {
	t.Helper()
	from := []string{"--from", "testdata/healthy.yaml"}
	if name != "healthy" {
		from = append(from, "--from", "testdata/"+name+".yaml")
	}
	var out strings.Builder
	for _, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "#") {
			fmt.Fprintln(&out, line)
		}
		command, is := strings.CutPrefix(line, "$ kubectl belfry ")
		if !is {
			continue
		}
		got, code := run(t, "", slices.Concat(strings.Fields(command), from)...)
		fmt.Fprintf(&out, "\n%s\n%s", line, got)
		if code != Well {
			fmt.Fprintf(&out, "[exit %d]\n", code)
		}
		for l := range strings.Lines(got) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(l, "\n")); n > width && !strings.Contains(l, "https://") && !strings.HasPrefix(l, "error: ") {
				t.Errorf("%s: %s: a line of %d columns: %s", name, command, n, l)
			}
		}
	}
	return out.String()
}

// What each command says of a healthy cluster, and of broken ones. Each world has its
// objects beside it.
func TestCommandsSayOfEachWorld(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 11 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := transcript(t, string(want), name)
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("got (go test ./internal/cli -rewrite writes it):\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

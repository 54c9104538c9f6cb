// Package flagpage holds the page of the documentation that lists a program's flags to
// the flags.
package flagpage

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// page is where the flags of both programs are listed, from a package in cmd.
const page = "../../docs/reference/flags.md"

// Check fails the test unless the page lists the flags of a program, and with rewrite
// makes it do so.
func Check(t *testing.T, program string, flags *pflag.FlagSet, rewrite bool) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	begin, end := "<!-- "+program+": generated -->\n", "<!-- end of "+program+" -->\n"
	before, rest, begun := strings.Cut(string(b), begin)
	_, after, ended := strings.Cut(rest, end)
	if !begun || !ended {
		t.Fatalf("%s has no place for %s", page, program)
	}
	switch want := before + begin + table(flags) + end + after; {
	case want == string(b):
	case !rewrite:
		t.Errorf("%s is not current: go test ./cmd/%s -run FlagPage -rewrite", page, program)
	default:
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// table has a row for each flag.
func table(flags *pflag.FlagSet) string {
	var out strings.Builder
	out.WriteString("| flag | type | default | meaning |\n|---|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		fallback := ""
		if f.DefValue != "" {
			fallback = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&out, "| `--%s` | %s | %s | %s |\n", f.Name, f.Value.Type(), fallback, f.Usage)
	})
	return out.String()
}

package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A kind is what ARCHITECTURE.md says that a package is.
type kind string

const (
	isPure kind = "pure"
	// namesAPI are pure packages that read or make API objects.
	namesAPI kind = "pure, API types"
	// namesCluster are those that read objects of Kubernetes itself besides.
	namesCluster kind = "pure, Kubernetes' types"
)

// otherKinds are those that this package asks nothing more of.
var otherKinds = []kind{"types", "edge", "loop", "wiring", "tests", "build", "install"}

// undivided are rooms whose parts need no rows.
var undivided = []string{"hack/lab", "internal/kube/client"}

func (k kind) pure() bool { return k == isPure || k == namesAPI || k == namesCluster }

// rooms returns the packages in ARCHITECTURE.md's table with their kinds.
func rooms(t *testing.T) map[string]kind {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| package | what is in it | kind |\n|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	row := regexp.MustCompile("^\\| `([^`]+)` \\| .+ \\| ([^|]+) \\|$")
	out := map[string]kind{}
	for line := range strings.Lines(table) {
		m := row.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			t.Fatalf("ARCHITECTURE.md: this row names no package and kind: %s", line)
		}
		if _, twice := out[m[1]]; twice {
			t.Errorf("ARCHITECTURE.md: %s has two rows", m[1])
		}
		out[m[1]] = kind(m[2])
	}
	if len(out) == 0 {
		t.Fatal("ARCHITECTURE.md has no table of packages")
	}
	return out
}

func TestArchitectureNamesEachPackage(t *testing.T) {
	rows, known := rooms(t), map[string]bool{}
	for _, p := range goList(t, nil, "./...") {
		rel := strings.TrimPrefix(p.ImportPath, module+"/")
		known[rel] = true
		if _, found := rows[rel]; !found && !slices.ContainsFunc(undivided, func(room string) bool { return strings.HasPrefix(rel, room+"/") }) {
			t.Errorf("ARCHITECTURE.md has no row for %s", rel)
		}
	}
	for rel, k := range rows {
		if !known[rel] {
			t.Errorf("ARCHITECTURE.md has a row for %s, which does not exist", rel)
		}
		if !k.pure() && !slices.Contains(otherKinds, k) {
			t.Errorf("ARCHITECTURE.md: %s is of the unknown kind %q", rel, k)
		}
	}
}

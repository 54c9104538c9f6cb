package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var designPage = regexp.MustCompile(`docs/design/([a-z0-9-]+\.md)`)

// namedInCode returns the design pages that Go files and build scripts name, each with
// a file that does.
func namedInCode(t *testing.T, root string) map[string]string {
	t.Helper()
	named := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "docs"):
			return filepath.SkipDir
		case filepath.Ext(path) != ".go" && filepath.Ext(path) != ".sh":
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range designPage.FindAllSubmatch(text, -1) {
			named[string(m[1])] = path
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return named
}

// A constant whose value was measured names the page that says how. So each page that
// code names exists, and the index leads to all of them.
func TestDesignPagesThatCodeNamesExistAndAreIndexed(t *testing.T) {
	named := namedInCode(t, "..")
	if len(named) < 10 {
		t.Errorf("code names only %d pages: %v", len(named), named)
	}
	index, err := os.ReadFile("design/README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("design/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var exist []string
	for _, file := range files {
		name := filepath.Base(file)
		exist = append(exist, name)
		if name != "README.md" && !strings.Contains(string(index), "]("+name+")") {
			t.Errorf("docs/design/README.md does not list %s", name)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > 120 {
			t.Errorf("%s has %d lines; a decision takes at most 120", file, n)
		}
	}
	for name, file := range named {
		if !slices.Contains(exist, name) {
			t.Errorf("%s names docs/design/%s, which does not exist", file, name)
		}
	}
}

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

// sources are the programs' own Go files, as one text.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, root := range []string{"../api", "../cmd", "../internal"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// used reports whether a text has a term as a word of its own, in whatever case.
func used(term, text string) bool {
	return regexp.MustCompile(`(?i)\b` + regexp.QuoteMeta(term) + `s?\b`).MatchString(text)
}

func TestEachTermOfTheGlossaryIsInUse(t *testing.T) {
	all := pages(t)
	var terms []string
	for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \| [A-Z][^|]*\. \|$`).FindAllStringSubmatch(all["glossary.md"], -1) {
		terms = append(terms, m[1])
	}
	if rows := strings.Count(all["glossary.md"], "\n| ") - 1; len(terms) != rows || rows < 20 {
		t.Fatalf("%d of %d rows are a term and sentences", len(terms), rows)
	}
	if !slices.IsSortedFunc(terms, func(a, b string) int {
		return strings.Compare(strings.ToLower(a), strings.ToLower(b))
	}) {
		t.Errorf("the terms are not in order: %q", terms)
	}
	delete(all, "glossary.md")
	text := sources(t)
	for _, page := range all {
		text += page
	}
	if used("herd immunity", text) || used("laim", text) {
		t.Fatal("the test finds what is not there")
	}
	for _, term := range terms {
		if !used(term, text) {
			t.Errorf("glossary.md explains %q, which no page and no program uses", term)
		}
	}
}

package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest       = regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`")
	namedTranscript = regexp.MustCompile("transcripts? `([a-z0-9-]+)`")
	declared        = regexp.MustCompile(`(?m)^func (Test[A-Z][A-Za-z0-9]*)\(`)
)

// A page that says by which test something is shown names one that exists.
func TestWhatPagesNameAsProofExists(t *testing.T) {
	tests, transcripts := map[string]bool{}, map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range declared.FindAllSubmatch(text, -1) {
				tests[string(m[1])] = true
			}
		case strings.HasSuffix(path, ".txt") && strings.Contains(path, "/testdata/"):
			transcripts[strings.TrimSuffix(d.Name(), ".txt")] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for page, text := range pages(t) {
		for kind, c := range map[string]struct {
			pattern *regexp.Regexp
			exists  map[string]bool
		}{"test": {namedTest, tests}, "transcript": {namedTranscript, transcripts}} {
			for _, m := range c.pattern.FindAllStringSubmatch(text, -1) {
				named++
				if !c.exists[m[1]] {
					t.Errorf("%s: there is no %s %s", page, kind, m[1])
				}
			}
		}
	}
	if named == 0 {
		t.Error("no page names a test")
	}
}

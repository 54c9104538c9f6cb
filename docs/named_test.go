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

var (
	namedTest       = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")
	namedTranscript = regexp.MustCompile("[Tt]ranscripts? ((?:(?:, | and )?`[a-z0-9-]+`)+)")
	declared        = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)\(`)
	quoted          = regexp.MustCompile("`([a-z0-9-]+)`")
	// placed is where something is that is named just before.
	placed = regexp.MustCompile("\\(((?:`[a-z0-9]+(?:/[a-z0-9]+)*`(?:, )?)+)\\)")
	inside = regexp.MustCompile("`([a-z0-9/]+)`")
)

// proofs are the tests and transcripts that exist, with the packages that they are in.
func proofs(t *testing.T) (tests, transcripts map[string][]string) {
	t.Helper()
	tests, transcripts = map[string][]string{}, map[string][]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		in := strings.TrimPrefix(filepath.Dir(path), "../")
		switch {
		case err != nil:
			return err
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range declared.FindAllSubmatch(text, -1) {
				tests[string(m[1])] = append(tests[string(m[1])], in)
			}
		case strings.HasSuffix(path, ".txt"):
			if of, _, found := strings.Cut(in, "/testdata"); found {
				name := strings.TrimSuffix(d.Name(), ".txt")
				transcripts[name] = append(transcripts[name], of)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests, transcripts
}

// names returns the tests and transcripts that a text names.
func names(text string) (tests, transcripts []string) {
	for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
		tests = append(tests, m[1])
	}
	for _, m := range namedTranscript.FindAllStringSubmatch(text, -1) {
		for _, q := range quoted.FindAllStringSubmatch(m[1], -1) {
			transcripts = append(transcripts, q[1])
		}
	}
	return tests, transcripts
}

// A page that says by which test something is shown names one that exists, and where it
// says in which package, one that is there.
func TestWhatPagesNameAsProofExists(t *testing.T) {
	tests, transcripts := proofs(t)
	named, located := 0, 0
	for page, text := range pages(t) {
		text = strings.Join(strings.Fields(text), " ")
		ts, trs := names(text)
		named += len(ts) + len(trs)
		for _, name := range ts {
			if tests[name] == nil {
				t.Errorf("%s: there is no test %s", page, name)
			}
		}
		for _, name := range trs {
			if transcripts[name] == nil {
				t.Errorf("%s: there is no transcript %s", page, name)
			}
		}
		for _, m := range placed.FindAllStringSubmatchIndex(text, -1) {
			var packages []string
			for _, p := range inside.FindAllStringSubmatch(text[m[2]:m[3]], -1) {
				packages = append(packages, p[1])
			}
			// It is about what stands between it and the end of what stands before.
			before := text[:m[0]]
			before = before[strings.LastIndexAny(before, ".|):")+1:]
			ts, trs := names(before)
			for exists, all := range map[*map[string][]string][]string{&tests: ts, &transcripts: trs} {
				for _, name := range all {
					located++
					if !slices.ContainsFunc((*exists)[name], func(in string) bool { return slices.Contains(packages, in) }) {
						t.Errorf("%s: %s is in %v, not in %v", page, name, (*exists)[name], packages)
					}
				}
			}
		}
	}
	if named < 100 || located < 60 {
		t.Errorf("the pages name %d tests and transcripts, %d with their packages", named, located)
	}
}

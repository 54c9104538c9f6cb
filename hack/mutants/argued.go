package main

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// argued has a page for each package that has mutants that no test can notice:
// paragraphs that say why, each before the mutants that it is about, which stand
// in a fence of the language diff as difference writes them. Where a function has
// the same mutant twice, it stands there twice.
//
//go:embed argued
var argued embed.FS

// arguments are a package's.
type arguments struct {
	// open says how many survivors of one text are argued and have not been met, and
	// unjudged how many mutants have that text whose fate is not known.
	open, unjudged map[string]int
}

// argued reads the arguments about a package's mutants.
func (s *subject) argued() (*arguments, error) {
	a := &arguments{open: map[string]int{}, unjudged: map[string]int{}}
	for _, m := range s.mutants {
		a.unjudged[m.difference(s)]++
	}
	page := path.Join("argued", path.Base(s.path)+".md")
	text, err := argued.ReadFile(page)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	} else if err != nil {
		return nil, err
	}
	if err := a.read(string(text)); err != nil {
		return nil, fmt.Errorf("%s: %w", page, err)
	}
	return a, nil
}

// read takes in a page.
func (a *arguments) read(page string) error {
	for pieces := strings.Split(page, "```"); len(pieces) > 1; pieces = pieces[2:] {
		differences, is := strings.CutPrefix(pieces[1], "diff\n")
		if !is || !strings.HasSuffix(strings.TrimSpace(pieces[0]), ".") {
			return fmt.Errorf("no sentence before this, or no diff:\n%s", pieces[1])
		}
		for _, d := range strings.Split("\n"+differences, "\n@@ ")[1:] {
			a.open["@@ "+strings.TrimRight(d, "\n")+"\n"]++
		}
	}
	return nil
}

// settles takes note of a mutant's fate, and reports whether it survives and is
// argued.
func (a *arguments) settles(difference string, f fate) bool {
	if f == endless {
		return false
	}
	a.unjudged[difference]--
	if f != lived && f != never || a.open[difference] == 0 {
		return false
	}
	a.open[difference]--
	return true
}

// idle returns the arguments about mutants that are gone or that a test killed.
func (a *arguments) idle() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(a.open)), func(d string) bool { return a.open[d] <= a.unjudged[d] })
}

// difference tells a mutant from the others of its package wherever it stands.
func (m mutant) difference(s *subject) string {
	out := "@@ " + m.function + "\n"
	was, is := m.lines(s)
	for _, l := range was {
		out += "-" + strings.TrimSpace(l) + "\n"
	}
	for _, l := range is {
		out += "+" + strings.TrimSpace(l) + "\n"
	}
	return out
}

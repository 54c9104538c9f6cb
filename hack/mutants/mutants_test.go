package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the expected fates instead of comparing")

// none are arguments about nothing.
func none() *arguments { return &arguments{open: map[string]int{}, unjudged: map[string]int{}} }

// Every mutant of a package that has one of each kind is made, compiles, and
// meets its fate, which is the same again when it is remembered.
func TestFateOfEveryMutantOfASpecimen(t *testing.T) {
	subjects, err := load(t.Context(), []string{"./testdata/specimen"})
	if err != nil {
		t.Fatal(err)
	}
	s := subjects[0]
	all := choose(subjects, 0, 0)[s]
	cache := t.TempDir()
	sc, err := try(t.Context(), s, all, none(), t.TempDir(), options{parallel: 2, cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := try(t.Context(), s, all, none(), t.TempDir(), options{parallel: 2, cache: cache}); err != nil || again != sc {
		t.Errorf("remembered as %+v, %v; it was %+v", again, err, sc)
	}
	survivors, err := try(t.Context(), s, all, none(), t.TempDir(), options{parallel: 2, cache: cache, survivors: true})
	if err != nil || survivors.total != sc.lived+sc.never || survivors.lived != sc.lived {
		t.Errorf("of %+v the survivors are %+v, %v", sc, survivors, err)
	}
	know := &trial{subject: s}
	r, err := know.recall(cache)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got strings.Builder
	for _, n := range all {
		f := "killed"
		if r.survived[s.key(n)] {
			f = "survives"
		}
		fmt.Fprintf(&got, "%s: %s", f, s.mutants[n].describe(s))
	}
	golden := filepath.Join("testdata", "fates.txt")
	if *rewrite {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got:\n%s\nwant (-rewrite writes it):\n%s", got.String(), want)
	}
}

// What a package's own tests let live may be noticed by those of a package that
// drives it, and counts as such.
func TestDriversJudgeWhatTheOwnTestsLetLive(t *testing.T) {
	subjects, err := load(t.Context(), []string{"./testdata/specimen"})
	if err != nil {
		t.Fatal(err)
	}
	s := subjects[0]
	all := choose(subjects, 0, 0)[s]
	alone, err := try(t.Context(), s, all, none(), t.TempDir(), options{parallel: 2, cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	drivers := map[string][]string{"hack/mutants/testdata/specimen": {"hack/mutants/testdata/driver"}}
	both, err := try(t.Context(), s, all, none(), t.TempDir(), options{parallel: 2, cache: t.TempDir(), drivers: drivers})
	if err != nil {
		t.Fatal(err)
	}
	// The doubled limit, which the package's own tests reach and do not ask for.
	want := alone
	want.elsewhere, want.lived = 1, alone.lived-1
	if both != want {
		t.Errorf("alone %+v, with a driver %+v, want %+v", alone, both, want)
	}
}

// What is argued counts apart as long as it survives. An argument about what a test
// kills is told, and so is one about what is not there; one about what was not
// judged is not.
func TestSurvivorsThatAreArguedCountApart(t *testing.T) {
	subjects, err := load(t.Context(), []string{"./testdata/specimen"})
	if err != nil {
		t.Fatal(err)
	}
	s := subjects[0]
	const (
		survives = "@@ Larger\n-if b > n {\n+if b >= n {\n"
		killed   = "@@ Larger\n-n = b\n"
		gone     = "@@ Smaller\n-n = b\n"
	)
	all := choose(subjects, 0, 0)[s]
	cache := t.TempDir()
	before, err := try(t.Context(), s, all, none(), t.TempDir(), options{parallel: 2, cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tried  []int
		argued int
		idle   []string
	}{{all, 1, []string{killed, gone}}, {nil, 0, []string{gone}}} {
		a, err := s.argued()
		if err != nil {
			t.Fatal(err)
		}
		page := "Equal numbers are the same either way.\n\n```diff\n" + survives + "```\n\nSome more.\n\n```diff\n" + killed + gone + "```\n"
		if err := a.read(page); err != nil {
			t.Fatal(err)
		}
		sc, err := try(t.Context(), s, c.tried, a, t.TempDir(), options{parallel: 2, cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if sc.argued != c.argued || len(c.tried) > 0 && (sc.lived != before.lived-1 || sc.percent() <= before.percent()) {
			t.Errorf("of %+v, with arguments, became %+v", before, sc)
		}
		if got := a.idle(); !slices.Equal(got, c.idle) {
			t.Errorf("%d tried: idle are %q, want %q", len(c.tried), got, c.idle)
		}
	}
	for _, page := range []string{"```diff\n" + survives + "```\n", "Why.\n\n```\n" + survives + "```\n"} {
		if err := none().read(page); err == nil {
			t.Errorf("%q is taken for arguments", page)
		}
	}
}

// Every mutant that is argued is one.
func TestWhatIsArguedIsThere(t *testing.T) {
	if testing.Short() {
		t.Skip("checks the types of all packages that decide, again and again until all mutants compile")
	}
	t.Chdir("../..")
	subjects, err := load(t.Context(), deciding)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects {
		a, err := s.argued()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range a.idle() {
			t.Errorf("%s has no such mutant:\n%s", s.name(), d)
		}
	}
}

func TestASampleIsEvenAndKnownByItsSeed(t *testing.T) {
	for seed := range 7 {
		n, last := 0, -1
		for i := range 100 {
			if picked(i, 100, 10, seed) {
				if last >= 0 && i-last != 10 {
					t.Errorf("seed %d: %d follows %d", seed, i, last)
				}
				n, last = n+1, i
			}
		}
		if n != 10 {
			t.Errorf("seed %d: a sample of 10 has %d", seed, n)
		}
	}
}

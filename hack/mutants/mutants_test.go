package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write the expected fates instead of comparing")

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
	sc, err := try(t.Context(), s, all, t.TempDir(), options{parallel: 2, cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := try(t.Context(), s, all, t.TempDir(), options{parallel: 2, cache: cache}); err != nil || again != sc {
		t.Errorf("remembered as %+v, %v; it was %+v", again, err, sc)
	}
	survivors, err := try(t.Context(), s, all, t.TempDir(), options{parallel: 2, cache: cache, survivors: true})
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
	alone, err := try(t.Context(), s, all, t.TempDir(), options{parallel: 2, cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	drivers := map[string][]string{"hack/mutants/testdata/specimen": {"hack/mutants/testdata/driver"}}
	both, err := try(t.Context(), s, all, t.TempDir(), options{parallel: 2, cache: t.TempDir(), drivers: drivers})
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

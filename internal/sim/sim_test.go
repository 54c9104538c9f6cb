package sim

import (
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Uint64("seeds", 10000, "how many scenarios to derive from seeds")
	first = flag.Uint64("first", 0, "the first seed")
)

// report plays the scenario again, with its history.
func report(t *testing.T, s scenario) {
	t.Helper()
	w := s.play(true)
	history := w.history
	if most := 120; len(history) > most {
		history = append([]string{"..."}, history[len(history)-most:]...)
	}
	t.Errorf("%s\nscenario (gentle %v):\n%s\nhistory:\n%s", w.failure, s.gentle, s, strings.Join(history, "\n"))
}

// Among nodes that hear each other at most one answers for an address, one does
// within the bound whenever one could, and nothing moves without a cause.
func TestOneOwnerWhateverHappens(t *testing.T) { playAll(t, *seeds, generate) }

// While gossip is lost and the segments are whole exactly one answers.
func TestOneOwnerThoughGossipIsLost(t *testing.T) { playAll(t, *seeds/5, generateCut) }

// Interfaces without addresses, and two on one segment, change nothing about that.
func TestOneOwnerOnInterfacesWithoutAddresses(t *testing.T) { playAll(t, *seeds/20, generateBare) }
func TestOneOwnerOnTwoInterfacesOfOneSegment(t *testing.T)  { playAll(t, *seeds/20, generateTwin) }

// playAll plays the scenarios that are derived from so many seeds.
func playAll(t *testing.T, n uint64, generate func(seed uint64) scenario) {
	if testing.Short() {
		n = max(1, n/10)
	}
	known := knownScenarios(t)
	var next, failures, left atomic.Uint64
	var mu sync.Mutex
	var gap, both time.Duration
	next.Store(*first)
	start := time.Now()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= *first+n || failures.Load() >= 3 {
					return
				}
				s := generate(seed)
				if known[s.String()] {
					left.Add(1) // TestWhatIsKnownToGoWrong plays it
					continue
				}
				w := s.play(false)
				mu.Lock()
				if w.failure != "" && failures.Add(1) <= 3 {
					report(t, s)
				}
				if s.loss == 0 {
					both = max(both, w.check.worstBoth)
				}
				gap = max(gap, w.check.worstGap)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := left.Load(); n > 0 {
		t.Logf("LEFT OUT, as known to go wrong (testdata/known): %d", n)
	}
	t.Logf("%d scenarios in %v; longest gap %v; longest overlap without loss %v", n, time.Since(start).Round(time.Millisecond), gap, both)
}

// A written is the scenario of a file, with its name, and its text with the comments.
type written struct {
	name, text string
	scenario
}

// scenariosIn reads the scenarios of a directory.
func scenariosIn(t *testing.T, dir ...string) (all []written) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Join(dir...), "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s, err := parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		all = append(all, written{strings.TrimSuffix(filepath.Base(f), ".txt"), string(text), s})
	}
	return all
}

// knownScenarios are the scenarios that are known to go wrong, by what is played.
func knownScenarios(t *testing.T) map[string]bool {
	known := map[string]bool{}
	for _, w := range scenariosIn(t, "testdata", "known") {
		known[w.String()] = true
	}
	return known
}

// Each file is a scenario that broke an invariant once.
func TestRegressions(t *testing.T) {
	all := scenariosIn(t, "testdata")
	if len(all) == 0 {
		t.Fatal("no scenarios in testdata")
	}
	for _, one := range all {
		t.Run(one.name, func(t *testing.T) {
			s := one.scenario
			s.gentle = strings.Contains(one.text, "# gentle")
			if w := s.play(false); w.failure != "" {
				report(t, s)
			}
		})
	}
}

func TestAScenarioSurvivesItsText(t *testing.T) {
	for seed := range uint64(200) {
		s := generate(seed)
		again, err := parse(s.String())
		if err != nil || again.String() != s.String() {
			t.Fatalf("seed %d: %v\n%s\n%s", seed, err, s, again)
		}
	}
}

func TestTheSameScenarioHasTheSameHistory(t *testing.T) {
	for seed := range uint64(50) {
		a, b := generate(seed).play(true), generate(seed).play(true)
		if strings.Join(a.history, "\n") != strings.Join(b.history, "\n") {
			t.Fatalf("seed %d: two histories", seed)
		}
	}
}

// Each file is what the product does wrong today, and says why. One that holds is to
// be moved to testdata, where it has to hold for ever.
func TestWhatIsKnownToGoWrong(t *testing.T) {
	for _, one := range scenariosIn(t, "testdata", "known") {
		t.Run(one.name, func(t *testing.T) {
			_, why, told := strings.Cut(strings.ReplaceAll(one.text, "\n# ", " "), "Known: ")
			if !told {
				t.Fatal("it does not say what is known")
			}
			why, _, _ = strings.Cut(why, "\n")
			w := one.play(false)
			if w.failure == "" {
				t.Fatalf("it holds now: move it to testdata")
			}
			first, _, _ := strings.Cut(w.failure, "\n")
			t.Logf("KNOWN TO GO WRONG: %s\n%s", why, first)
		})
	}
}

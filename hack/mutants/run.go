package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// What a mutant's tests may take. Processor time tells an endless loop from a
// machine that is busy with other things; the other bounds are for what waits or
// grows for ever.
const (
	leastCPU = 3 * time.Second
	leastAge = 20 * time.Second
	memory   = 4 << 20 // KiB of address space
	// longest is what a test of another package may take by itself to be a judge.
	longest = 5 * time.Second
)

// limits matches what the runtime says of itself when a limit ends it.
var limits = regexp.MustCompile(`(?m)^(panic: test timed out|fatal error: .*(out of memory|cannot allocate))`)

// A fate is what became of a mutant.
type fate string

// Fates.
const (
	killed    fate = "killed"
	elsewhere fate = "killed elsewhere" // by the tests of a package that drives this one
	endless   fate = "endless"          // a limit ended it
	lived     fate = "survived"
	never     fate = "not reached"
)

// A judge is a package's test binary with all mutants of the subject in it.
type judge struct{ path, dir, binary string }

// A test is one of a judge's.
type test struct {
	judge int
	name  string
}

// A trial is the subject with its judges, of which its own tests are the first.
type trial struct {
	*subject
	judges []judge
	work   string
	// reach are the tests that reach a mutant, its own first and then the quickest,
	// and took is how long each takes by itself.
	reach  map[int][]test
	took   map[test]time.Duration
	argued *arguments
}

// try finds out the fates of some mutants of a package, some of which are argued.
func try(ctx context.Context, s *subject, chosen []int, a *arguments, work string, o options) (score, error) {
	t := &trial{subject: s, work: work, reach: map[int][]test{}, took: map[test]time.Duration{}, argued: a}
	if err := t.build(ctx, o.drivers[s.name()]); err != nil {
		return score{}, err
	}
	known, err := t.recall(o.cache)
	if err != nil {
		return score{}, err
	}
	defer known.Close()
	sc := score{subject: s}
	var todo []int
	for _, n := range chosen {
		if o.survivors && !known.survived[s.key(n)] {
			continue
		}
		sc.total++
		if f, ok := known.fates[s.key(n)]; ok {
			t.tell(&sc, n, f)
		} else {
			todo = append(todo, n)
		}
	}
	if len(todo) == 0 {
		return sc, nil
	}
	if err := t.survey(ctx, o.parallel); err != nil {
		return sc, err
	}
	began, done := time.Now(), 0
	each := func(n int) (fate, error) { return t.run(ctx, n) }
	err = inParallel(ctx, todo, o.parallel, each, func(n int, f fate) error {
		if done++; done%50 == 0 {
			fmt.Fprintf(os.Stderr, "%s: %d of %d after %v\n", s.name(), done, len(todo), time.Since(began).Round(time.Second))
		}
		t.tell(&sc, n, f)
		return known.note(s.key(n), f)
	})
	return sc, err
}

// tell counts a mutant, and prints it when it is a survivor that is not argued.
func (t *trial) tell(sc *score, n int, f fate) {
	if t.argued.settles(t.mutants[n].difference(t.subject), f) {
		sc.argued++
		return
	}
	switch f {
	case killed:
		sc.killed++
	case elsewhere:
		sc.elsewhere++
	case endless:
		sc.endless++
	case lived:
		sc.lived++
	case never:
		sc.never++
	}
	if f == lived || f == never {
		fmt.Printf("%s: %s", f, t.mutants[n].describe(t.subject))
	}
}

// inParallel does something for each number, and hands over what comes out in
// the order of the numbers.
func inParallel[R any](ctx context.Context, numbers []int, workers int, do func(int) (R, error), then func(int, R) error) error {
	type result struct {
		value R
		err   error
	}
	results := make([]chan result, len(numbers))
	for i := range results {
		results[i] = make(chan result, 1)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	next := make(chan int, len(numbers))
	for i := range numbers {
		next <- i
	}
	close(next)
	for range workers {
		wg.Go(func() {
			for i := range next {
				if ctx.Err() != nil {
					return
				}
				v, err := do(numbers[i])
				results[i] <- result{v, err}
			}
		})
	}
	for i, n := range numbers {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-results[i]:
			if err := cmp.Or(r.err, ctx.Err()); err != nil {
				return err
			}
			if err := then(n, r.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// build compiles the woven package with its tests, and with those of the packages
// that drive it.
func (t *trial) build(ctx context.Context, drivers []string) error {
	if err := os.MkdirAll(t.work, 0o755); err != nil {
		return err
	}
	replace := map[string]string{}
	put := func(over string, text []byte) error {
		name := filepath.Join(t.work, filepath.Base(over))
		replace[over] = name
		return os.WriteFile(name, text, 0o644)
	}
	for i, f := range t.files {
		if err := put(f.name, t.weave(i)); err != nil {
			return err
		}
	}
	if err := put(filepath.Join(t.dir, "mutants_support.go"), t.support()); err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	list := filepath.Join(t.work, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		return err
	}
	t.judges = []judge{{path: t.path, dir: t.dir}}
	for _, d := range drivers {
		t.judges = append(t.judges, judge{path: t.module + "/" + d, dir: filepath.Join(strings.TrimSuffix(t.dir, t.name()), d)})
	}
	for i := range t.judges {
		j := &t.judges[i]
		j.binary = filepath.Join(t.work, fmt.Sprintf("woven-%d.test", i))
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-overlay", list, "-o", j.binary, j.path)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

// test runs some tests of a judge with a mutant turned on, 0 for none.
func (t *trial) test(ctx context.Context, mutant int, reached string, j judge, tests []string, limit time.Duration) (time.Duration, []byte, error) {
	age := max(leastAge, 10*limit)
	ctx, cancel := context.WithTimeout(ctx, age)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", fmt.Sprintf(`ulimit -v %d; ulimit -t %d; exec "$0" "$@"`, memory, int(max(leastCPU, 10*limit).Seconds())),
		j.binary, "-test.short", "-test.failfast", "-test.count=1", "-test.timeout="+age.String(), "-test.run=^("+strings.Join(tests, "|")+")$")
	cmd.Dir = j.dir
	cmd.Env = append(os.Environ(), fmt.Sprintf("MUTANT=%d", mutant), "MUTANTS_REACHED="+reached)
	cmd.WaitDelay = time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	return time.Since(began), out, err
}

// survey runs each test by itself, and finds out which mutants it reaches.
func (t *trial) survey(ctx context.Context, parallel int) error {
	var tests []test
	for i, j := range t.judges {
		out, err := exec.CommandContext(ctx, j.binary, "-test.list=^(Test|Fuzz|Example)").Output()
		if err != nil {
			return fmt.Errorf("list tests of %s: %w", j.path, err)
		}
		for _, name := range strings.Fields(string(out)) {
			if name != "TestMain" {
				tests = append(tests, test{i, name})
			}
		}
	}
	type surveyed struct {
		took    time.Duration
		reached []int
		why     string
	}
	numbers := make([]int, len(tests))
	for i := range numbers {
		numbers[i] = i
	}
	look := func(i int) (surveyed, error) {
		trace := filepath.Join(t.work, fmt.Sprintf("reached-%d", i))
		if err := os.WriteFile(trace, nil, 0o644); err != nil {
			return surveyed{}, err
		}
		took, out, err := t.test(ctx, 0, trace, t.judges[tests[i].judge], []string{tests[i].name}, time.Minute)
		if err != nil {
			return surveyed{why: string(out)}, nil
		}
		f, err := os.Open(trace)
		if err != nil {
			return surveyed{}, err
		}
		defer f.Close()
		s := surveyed{took: took}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var n int
			if _, err := fmt.Sscan(lines.Text(), &n); err == nil {
				s.reached = append(s.reached, n-1)
			}
		}
		return s, nil
	}
	err := inParallel(ctx, numbers, parallel, look, func(i int, s surveyed) error {
		if s.why != "" {
			fmt.Fprintf(os.Stderr, "%s: %s of %s fails without any mutant and judges none:\n%s\n", t.name(), tests[i].name, t.judges[tests[i].judge].path, s.why)
			return nil
		}
		if tests[i].judge > 0 && s.took > longest {
			return nil
		}
		t.took[tests[i]] = s.took
		for _, n := range s.reached {
			t.reach[n] = append(t.reach[n], tests[i])
		}
		return nil
	})
	for _, tests := range t.reach {
		slices.SortStableFunc(tests, func(a, b test) int { return cmp.Or(cmp.Compare(a.judge, b.judge), cmp.Compare(t.took[a], t.took[b])) })
	}
	return err
}

// run finds out the fate of a mutant: its tests run one after the other, the
// quickest first, until one fails.
func (t *trial) run(ctx context.Context, n int) (fate, error) {
	tests := t.reach[n]
	if len(tests) == 0 {
		return never, nil
	}
	// Quick tests together, slow ones each by itself: a process costs more than
	// most tests.
	for len(tests) > 0 {
		var batch []string
		var limit time.Duration
		by := tests[0].judge
		for len(tests) > 0 && tests[0].judge == by && (len(batch) == 0 || limit+t.took[tests[0]] < time.Second) {
			limit += t.took[tests[0]]
			batch, tests = append(batch, tests[0].name), tests[1:]
		}
		_, out, err := t.test(ctx, n+1, "", t.judges[by], batch, limit)
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		var exit *exec.ExitError
		switch {
		case err == nil:
			continue
		case !errors.As(err, &exit):
			return "", err
		case exit.ExitCode() < 0 || limits.Match(out):
			return endless, nil
		case by > 0:
			return elsewhere, nil
		}
		return killed, nil
	}
	return lived, nil
}

// key names a mutant for as long as its function stays what it is.
func (s *subject) key(n int) string {
	m := s.mutants[n]
	same := 0
	for _, o := range s.mutants[:n] {
		if o.file == m.file && o.function == m.function && o.kind == m.kind && o.instead == m.instead {
			same++
		}
	}
	return fmt.Sprintf("%s %s %d %s", s.place(n), m.kind, same, m.instead)
}

// place is the file and the function that a mutant is in.
func (s *subject) place(n int) string {
	m := s.mutants[n]
	return filepath.Base(s.files[m.file].name) + " " + m.function
}

// A recollection is what earlier runs have found out about a package.
type recollection struct {
	io.Closer
	out *json.Encoder
	// fates are those by these very test binaries, survived what survived when it was
	// last tried, by whichever.
	fates    map[string]fate
	survived map[string]bool
	binary   string
}

// A line is what the file says of one mutant.
type line struct {
	Binary, Mutant string
	Fate           fate
}

// recall reads what is known, and keeps the file open for more.
func (t *trial) recall(dir string) (*recollection, error) {
	sum := sha256.New()
	for _, j := range t.judges {
		text, err := os.ReadFile(j.binary)
		if err != nil {
			return nil, err
		}
		_, _ = sum.Write(text)
	}
	r := &recollection{fates: map[string]fate{}, survived: map[string]bool{}, binary: fmt.Sprintf("%x", sum.Sum(nil))[:16]}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, strings.ReplaceAll(t.name(), "/", "_")+".jsonl"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(f); ; {
		var l line
		if err := dec.Decode(&l); err != nil {
			break // its end, or a line that was cut off
		}
		if l.Binary == r.binary {
			r.fates[l.Mutant] = l.Fate
		}
		r.survived[l.Mutant] = l.Fate == lived || l.Fate == never
	}
	r.Closer, r.out = f, json.NewEncoder(f)
	return r, nil
}

func (r *recollection) note(key string, f fate) error {
	return r.out.Encode(line{r.binary, key, f})
}

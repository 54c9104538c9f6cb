// Command mutants asks how much of a package's behavior its own short tests
// hold: it makes one small error after the other in the code, and counts those
// that no test notices.
//
//	go run ./hack/mutants                                # the packages that decide
//	go run ./hack/mutants ./internal/bgp
//	go run ./hack/mutants --sample 200 --seed 7          # 200 of all, evenly
//	go run ./hack/mutants --survivors                    # those that survived before
//	go run ./hack/mutants --only '^loop.go' ./internal/controller
//
// All errors of a package are compiled into one test binary, each behind a
// switch, and one environment variable turns one of them on. So a package is
// built once and not once for each mutant, the tree stays as it is, and a mutant
// costs the time of the tests that reach its place, which a first run of each
// test finds out. docs/design/mutants.md has the reasons and the figures.
//
// A survivor that no test could notice is argued in a file of argued, and counts
// apart. An argument about a mutant that is gone, or that a test kills, is a fault.
//
// Results are kept in the user's cache directory by the content of the test
// binary, so a run that was interrupted goes on where it ended. The exit status
// is 1 when a package is below --least.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

// deciding are the packages that are looked at unless others are named.
var deciding = []string{
	"./internal/allocator", "./internal/announce", "./internal/bgp", "./internal/contest",
	"./internal/controller", "./internal/election", "./internal/eligibility", "./internal/layer2", "./internal/origin",
}

// drivers are the packages whose tests judge, too, what the tests of a package
// itself let live. Each turns the package as the product does: a decision that
// depends on a machine's history is tested with that machine.
var drivers = map[string][]string{
	"internal/announce": {"internal/core", "internal/speakerstatus", "internal/sim"},
	"internal/election": {"internal/core", "internal/announce", "internal/sim"},
	"internal/layer2":   {"internal/core", "internal/speakerstatus", "internal/sim"},
	"internal/bgp":      {"internal/bgp/fsm", "internal/announce", "internal/speaker"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, pflag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

type options struct {
	packages  []string
	drivers   map[string][]string
	sample    int
	seed      uint64
	survivors bool
	only      *regexp.Regexp
	least     float64
	parallel  int
	cache     string
	list      bool
}

func parse(args []string) (options, error) {
	o := options{drivers: drivers}
	flags := pflag.NewFlagSet("mutants", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.IntVar(&o.sample, "sample", 0, "try so many mutants, spread evenly over all; 0 tries all")
	flags.Uint64Var(&o.seed, "seed", 1, "which ones those are")
	flags.BoolVar(&o.survivors, "survivors", false, "try only the mutants that survived when they were last tried")
	only := flags.String("only", "", "try only the mutants of which `file.go function` matches this regular expression")
	flags.Float64Var(&o.least, "least", 95, "percentage of the mutants of each package that its tests have to kill")
	flags.IntVar(&o.parallel, "parallel", runtime.GOMAXPROCS(0), "tests that run at the same time")
	flags.BoolVar(&o.list, "list", false, "print the mutants and try none")
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	flags.StringVar(&o.cache, "cache", filepath.Join(dir, "belfry", "mutants"), "where results are kept")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("--only: %w", err)
	}
	if o.packages = flags.Args(); len(o.packages) == 0 {
		o.packages = deciding
	}
	if o.parallel < 1 {
		return o, errors.New("--parallel must be at least 1")
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	subjects, err := load(ctx, o.packages)
	if err != nil {
		return err
	}
	chosen := choose(subjects, o.sample, o.seed)
	for _, s := range subjects {
		chosen[s] = slices.DeleteFunc(chosen[s], func(n int) bool { return !o.only.MatchString(s.place(n)) })
	}
	if o.list {
		for _, s := range subjects {
			for _, n := range chosen[s] {
				fmt.Print(s.mutants[n].describe(s))
			}
		}
		return nil
	}
	work, err := os.MkdirTemp("", "belfry-mutants")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var (
		scores []score
		weak   []string
		idle   []string
	)
	for _, s := range subjects {
		if len(chosen[s]) == 0 {
			continue
		}
		a, err := s.argued()
		if err != nil {
			return err
		}
		sc, err := try(ctx, s, chosen[s], a, filepath.Join(work, filepath.Base(s.dir)), o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.path, err)
		}
		scores, idle = append(scores, sc), append(idle, a.idle()...)
		if sc.percent() < o.least {
			weak = append(weak, s.name())
		}
	}
	fmt.Print(table(scores))
	if len(idle) > 0 {
		return fmt.Errorf("argued, and no such mutant survives:\n%s", strings.Join(idle, ""))
	}
	if len(weak) > 0 && !o.survivors {
		return fmt.Errorf("less than %v %% killed in %v", o.least, weak)
	}
	return nil
}

// choose picks the mutants to try of each package: all, or every so manieth of
// the whole list, from a place that the seed says.
func choose(subjects []*subject, sample int, seed uint64) map[*subject][]int {
	total := 0
	for _, s := range subjects {
		total += len(s.mutants)
	}
	chosen := map[*subject][]int{}
	at := 0 // of the whole list
	for _, s := range subjects {
		for n := range s.mutants {
			if sample <= 0 || sample >= total || picked(at, total, sample, int(seed%uint64(total))) {
				chosen[s] = append(chosen[s], n)
			}
			at++
		}
	}
	return chosen
}

// picked reports whether the i-th of a total is one of a sample that is spread
// evenly and begins at an offset.
func picked(i, total, sample, offset int) bool {
	i = (i + offset) % total
	return (i+1)*sample/total > i*sample/total
}

// A score is what became of the mutants of a package. Those that are argued are
// none of the survivors.
type score struct {
	subject                                                 *subject
	total, killed, elsewhere, endless, argued, lived, never int
}

// percent is how many of the mutants that were judged are killed, those left aside
// that are argued. One that a limit ended was not judged: nobody knows whether it
// or the machine was slow.
func (s score) percent() float64 {
	killed := s.killed + s.elsewhere
	judged := killed + s.lived + s.never
	if judged == 0 {
		return 100
	}
	return 100 * float64(killed) / float64(judged)
}

func table(scores []score) string {
	out := fmt.Sprintf("%-20s %8s %8s %10s %8s %8s %9s %12s %8s\n", "package", "mutants", "killed", "elsewhere", "endless", "argued", "survived", "not reached", "killed")
	for _, s := range scores {
		out += fmt.Sprintf("%-20s %8d %8d %10d %8d %8d %9d %12d %7.1f%%\n", s.subject.name(), s.total, s.killed, s.elsewhere, s.endless, s.argued, s.lived, s.never, s.percent())
	}
	return out
}

// Command bench measures what the product promises in figures, and says of each
// whether it is within its budget:
//
//	go run ./hack/bench                       # everything, in about ten minutes
//	go run ./hack/bench --list                # what there is
//	go run ./hack/bench --only allocate,lookup/miss
//	go run ./hack/bench --only failover --trials 20 --output json
//
// What is computed is measured in this process. Everything else is measured on
// the real thing: the programs of this tree, in a cluster of network namespaces
// of hack/lab, judged from outside, by what a client on another host sees, by
// /proc and by the API server's audit log.
//
// The table goes to standard output, progress to standard error. A missed budget
// is a finding and no error; the exit status tells only of what could not be
// measured.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

func main() {
	if os.Getenv(talking) != "" {
		if err := holdForth(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, pflag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	only     []string
	trials   int
	services int
	output   string
	profile  string
	list     bool
}

func parse(args []string) (options, error) {
	var o options
	flags := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.StringSliceVar(&o.only, "only", nil, "rows to measure: names, first parts of names, or patterns such as 'create/*-rss'")
	flags.IntVar(&o.trials, "trials", 20, "how often each fault is made")
	flags.IntVar(&o.services, "services", 3000, "how many Services are created through the API server")
	flags.StringVar(&o.output, "output", "table", "table or json")
	flags.StringVar(&o.profile, "profile", "", "directory for a CPU profile of each measurement that runs in this process, and, while Services are created, for profiles of the programs and the API server")
	flags.BoolVar(&o.list, "list", false, "say what each row is, and measure nothing")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	if o.profile != "" {
		var err error
		if o.profile, err = filepath.Abs(o.profile); err != nil { // the programs run elsewhere
			return o, err
		}
	}
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	if o.output != "table" && o.output != "json" {
		errs = append(errs, fmt.Errorf("--output %q: table or json", o.output))
	}
	if o.trials < 1 {
		errs = append(errs, fmt.Errorf("--trials %d: at least 1", o.trials))
	}
	if o.services < 1 || o.services > poolSize {
		errs = append(errs, fmt.Errorf("--services %d: 1 to %d", o.services, poolSize))
	}
	if _, err := selected(o.only); err != nil {
		errs = append(errs, err)
	}
	return o, errors.Join(errs...)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	rows, err := selected(o.only)
	if err != nil {
		return err
	}
	if o.list {
		return writeList(stdout, rows)
	}
	klog.SetLogger(logr.Discard()) // client-go tells of the watch that ends with the cluster
	b := &bench{options: o, progress: stderr, begun: time.Now(), figures: map[string]figure{}}
	report := report{Machine: describeMachine(), Begun: b.begun}
	err = b.measure(ctx, rows)
	report.Took = seconds(time.Since(b.begun).Round(time.Second))
	report.Figures = b.collect(rows)
	if o.output == "json" {
		return errors.Join(err, report.writeJSON(stdout))
	}
	return errors.Join(err, report.writeTable(stdout))
}

// A bench is one run.
type bench struct {
	options
	progress io.Writer
	begun    time.Time
	figures  map[string]figure
	// cluster is up once a measurement has asked for it; broken is set when ours
	// do not run in it as they should.
	cluster *cluster
	broken  bool
}

// An experiment measures some rows at once.
type experiment struct {
	name string
	rows []string
	do   func(context.Context, *bench) error
}

// experiments are in the order in which they leave each other the least
// disturbed.
var experiments = []experiment{
	{"allocation in process", []string{"allocate/1k", "allocate/4k", "allocate/16k", "allocate/64k", "allocate/linear"}, allocateOneByOne},
	{"failing allocation", []string{"allocate/exhausted"}, allocateInVain},
	{"waiting Services", []string{"allocate/waiting", "allocate/waiting-look"}, wait},
	{"many pools", []string{"allocate/pools", "allocate/pools-memory"}, compilePools},
	{"one address held by many", []string{"allocate/wrong", "allocate/wrong-linear"}, disentangle},
	{"what a Service's author can have kept", []string{"keep/controller", "keep/speaker"}, keep},
	{"looking an address up", []string{"lookup/hit", "lookup/miss", "lookup/allocations"}, lookUp},
	{"deciding who announces", []string{"decide/index", "decide/settled", "decide/node-lost"}, decide},
	{"gossip on a virtual clock", []string{
		"gossip/3", "gossip/30", "gossip/100", "gossip/300", "gossip/3-cost", "gossip/30-cost", "gossip/100-cost", "gossip/300-cost", "gossip/wrong",
	}, gossip},
	{"gossip over sockets", []string{"gossip/sockets"}, gossipOnSockets},
	{"building stripped binaries", []string{"binary/controller", "binary/speaker", "binary/" + plugin}, buildBinaries},
	{"memory when idle", []string{"idle/controller", "idle/speaker"}, idle},
	{"answering against the kernel", []string{"answer/arp", "answer/ndp"}, answer},
	{"link cuts", []string{"failover/link"}, failLink},
	{"link cuts with keepalived", []string{"failover/keepalived"}, failKeepalived},
	{"speakers killed", []string{"failover/kill"}, failKill},
	{"nodes powered off", []string{"failover/power"}, failPower},
	{"interfaces taken down", []string{"failover/down"}, failDown},
	{"speakers terminated", []string{"failover/term"}, failTerm},
	{"healed partitions", []string{"failover/heal"}, failHeal},
	{"endpoints taken away", []string{"bgp/told", "bgp/withdraw"}, withdraw},
	{"endpoints taken away, with BIRD", []string{"bgp/withdraw-bird"}, withdrawFromBIRD},
	{"BGP sessions", []string{"bgp/cold", "bgp/reset", "bgp/session-rss", "bgp/prefixes-rss", "bgp/rest-cpu"}, talk},
	{"creating Services", []string{
		"create/wall", "create/announced", "create/latency", "create/writes",
		"create/controller-cpu", "create/controller-rss", "create/controller-limit",
		"create/speaker-cpu", "create/cpu", "create/speaker-rss", "create/speaker-limit",
	}, createServices},
	{"restarting the controller", []string{"restart/ready", "restart/writes", "restart/cpu"}, restartController},
	{"asking the plugin", []string{"plugin/status"}, askPlugin},
	{"a converged cluster", []string{"quiet/requests"}, beQuiet},
}

// measure runs the experiments that the rows need. One that fails does not keep
// the others from running, unless ctx has ended.
func (b *bench) measure(ctx context.Context, rows []row) (err error) {
	defer func() { err = errors.Join(err, b.takeDown(ctx, err != nil)) }()
	for _, e := range experiments {
		if !needed(e, rows) {
			continue
		}
		b.say("%s", e.name)
		stop, profileErr := b.startProfile(e)
		if profileErr != nil {
			return profileErr
		}
		failed := e.do(ctx, b)
		stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", e.name, failed))
			b.say("FAILED: %v", failed)
		}
	}
	return err
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "%6.1fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

// found notes what was measured for a row.
func (b *bench) found(name string, value float64, format string, args ...any) {
	f := figure{row: rowNamed(name), Value: value, Detail: fmt.Sprintf(format, args...)}
	b.figures[name] = f
	b.say("  %s: %s  %s", name, f.measured(), f.Detail)
}

// collect returns the figures of the rows, in their order; one that could not be
// measured is empty.
func (b *bench) collect(rows []row) []figure {
	var all []figure
	for _, r := range rows {
		f, ok := b.figures[r.Name]
		if !ok {
			f = figure{row: r, Missing: true}
		}
		all = append(all, f)
	}
	return all
}

// Command soak looks for takeovers without a cause. It lets three speakers run
// for minutes on a machine whose processors are all busy, over a segment that
// loses frames at random, and stops one of them again and again for a moment.
// Nothing has failed, so no address may move:
//
//	go run ./hack/soak                                  # ten minutes, 5 % lost
//	go run ./hack/soak --for 1m --loss 0.1
//	go run ./hack/soak --until-it-breaks                # 5 points more each minute
//
// The exit status is 1 if an address moved. With --until-it-breaks that is what
// is looked for, and the rate of loss at which it happened is printed.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/belfrylb/belfry/hack/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, pflag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

type options struct {
	duration time.Duration
	step     time.Duration
	loss     float64
	busy     int
	services int
	raise    bool
}

func parse(args []string) (options, error) {
	var o options
	flags := pflag.NewFlagSet("soak", pflag.ContinueOnError)
	flags.SortFlags = false
	flags.DurationVar(&o.duration, "for", 10*time.Minute, "how long")
	flags.Float64Var(&o.loss, "loss", 0.05, "share of the frames that is lost, in each direction")
	flags.IntVar(&o.busy, "busy", 2*runtime.NumCPU(), "how many processes do nothing but keep processors busy")
	flags.IntVar(&o.services, "services", 10, "how many dual-stack Services are announced")
	flags.BoolVar(&o.raise, "until-it-breaks", false, "lose more and more, until an address moves")
	flags.DurationVar(&o.step, "step", time.Minute, "how long to lose the same share with --until-it-breaks")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	if o.duration <= 0 || o.step <= 0 {
		errs = append(errs, errors.New("--for and --step: above 0"))
	}
	if !(o.loss >= 0 && o.loss < 1) {
		errs = append(errs, fmt.Errorf("--loss %v: from 0 to below 1", o.loss))
	}
	if o.services < 1 || o.services > 50 || o.busy < 0 {
		errs = append(errs, errors.New("--services: 1 to 50; --busy: at least 0"))
	}
	return o, errors.Join(errs...)
}

// configuration has a pool for the Services on the segment.
const configuration = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: edge}
spec:
  addresses: [198.51.100.200-198.51.100.250, "2001:db8:51::200-2001:db8:51::250"]
---
apiVersion: belfry.dev/v1beta1
kind: L2Advertisement
metadata: {name: all}
`

const speakerMetrics = 7872

// stops are how long a speaker is stopped, in turn.
var stops = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second}

// between is the time from the end of a stop to the next.
const between = 3 * time.Second

// A soak is one run.
type soak struct {
	options
	*lab.Lab
	begun time.Time
	stops map[time.Duration]int
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if err := lab.InstallPackages(ctx, os.Stderr); err != nil {
		return err
	}
	if why := lab.Unable(); why != nil {
		return why
	}
	if err := lab.BuildFor(ctx, os.Stderr, lab.Options{}); err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{Nodes: 3, Progress: os.Stderr})
	if err != nil {
		return err
	}
	s := &soak{options: o, Lab: l, begun: time.Now(), stops: map[time.Duration]int{}}
	defer func() {
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, l.Down(down))
		if err == nil {
			err = l.RemoveLogs()
		} else {
			s.say("the logs are in %s", l.LogDir())
		}
	}()
	if err := s.install(ctx); err != nil {
		return err
	}
	return s.soak(ctx)
}

func (s *soak) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(s.begun).Seconds(), fmt.Sprintf(format, args...))
}

// install brings everything up and waits until every address is announced.
func (s *soak) install(ctx context.Context) error {
	if err := s.Product.Install(ctx); err != nil {
		return err
	}
	if _, err := s.Product.StartController(ctx, 0); err != nil {
		return err
	}
	for _, node := range s.Network.Nodes() {
		if _, err := s.Product.StartSpeaker(ctx, node); err != nil {
			return err
		}
	}
	if err := s.Cluster.Apply(ctx, configuration); err != nil {
		return err
	}
	if err := s.Machines.Deploy(ctx, "default", "web", 3); err != nil {
		return err
	}
	var services strings.Builder
	for i := range s.services {
		fmt.Fprintf(&services, `apiVersion: v1
kind: Service
metadata: {name: web%d}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  selector: {app: web}
  ports: [{port: 80}]
---
`, i)
	}
	if err := s.Cluster.Apply(ctx, services.String()); err != nil {
		return err
	}
	return eventually(ctx, time.Minute, "every address is announced, and nothing moves any more", func() error {
		before, err := s.changes(ctx)
		if err != nil {
			return err
		}
		if err := pause(ctx, 3*time.Second); err != nil {
			return err
		}
		owned := 0.0
		for _, node := range s.Network.Nodes() {
			m, err := s.Observers.Metrics(ctx, node, speakerMetrics)
			if err != nil {
				return err
			}
			owned += m[`belfry_speaker_addresses{role="owner"}`]
		}
		after, err := s.changes(ctx)
		if err == nil && (owned != float64(2*s.services) || !maps.Equal(before, after)) {
			err = fmt.Errorf("%v addresses have an owner, of %d", owned, 2*s.services)
		}
		return err
	})
}

// changes returns how often addresses came to or left each node, by how.
func (s *soak) changes(ctx context.Context) (map[string]float64, error) {
	return s.counters(ctx, "belfry_speaker_owner_changes_total{")
}

// counters returns the counters of that name on all nodes.
func (s *soak) counters(ctx context.Context, name string) (map[string]float64, error) {
	all := map[string]float64{}
	for _, node := range s.Network.Nodes() {
		var m map[string]float64
		err := eventually(ctx, 30*time.Second, "the speaker on "+node+" shows its metrics", func() (err error) {
			m, err = s.Observers.Metrics(ctx, node, speakerMetrics)
			return err
		})
		if err != nil {
			return nil, err
		}
		for series, value := range m {
			if strings.HasPrefix(series, name) {
				all[node+" "+strings.TrimPrefix(series, name)] = value
			}
		}
	}
	return all, nil
}

// soak makes the machine busy and the segment lossy, and stops speakers, until
// the time is up or an address moves.
func (s *soak) soak(ctx context.Context) error {
	burnt, cancel := context.WithCancel(ctx)
	defer cancel()
	for range s.busy {
		c := exec.CommandContext(burnt, "sh", "-c", "while :; do :; done")
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			return err
		}
		defer func() { cancel(); _ = c.Wait() }()
	}
	if err := s.lose(ctx, s.loss); err != nil {
		return err
	}
	s.say("%d processors, %d busy processes, %d addresses, %.0f %% of the frames lost in each direction", runtime.NumCPU(), s.busy, 2*s.services, 100*s.loss)
	before, err := s.changes(ctx)
	if err != nil {
		return err
	}
	begun, raised := time.Now(), time.Now()
	for n := 0; s.raise || time.Since(begun) < s.duration; n++ {
		if s.raise && time.Since(raised) >= s.step {
			s.loss, raised = s.loss+0.05, time.Now()
			if s.loss >= 1 {
				return errors.New("everything is lost, and nothing moved: that cannot be")
			}
			if err := s.lose(ctx, s.loss); err != nil {
				return err
			}
			s.say("%.0f %% of the frames lost in each direction", 100*s.loss)
		}
		if err := s.stop(ctx, s.Network.Nodes()[n%len(s.Network.Nodes())], stops[n/len(s.Network.Nodes())%len(stops)]); err != nil {
			return err
		}
		after, err := s.changes(ctx)
		if err != nil {
			return err
		}
		if moved := difference(before, after); len(moved) > 0 {
			s.summary(ctx, time.Since(begun))
			if s.raise {
				s.say("BREAKS at %.0f %%: %s", 100*s.loss, strings.Join(moved, ", "))
				return nil
			}
			return fmt.Errorf("addresses moved, though nothing failed: %s", strings.Join(moved, ", "))
		}
	}
	s.summary(ctx, time.Since(begun))
	s.say("NOTHING MOVED at %.0f %%", 100*s.loss)
	return nil
}

func (s *soak) lose(ctx context.Context, share float64) error {
	if err := s.Network.HealNetwork(ctx); err != nil || share == 0 {
		return err
	}
	return s.Network.Lose(ctx, s.Network.Hosts(), s.Network.Hosts(), share)
}

// stop stops the speaker of a node for so long.
func (s *soak) stop(ctx context.Context, node string, d time.Duration) error {
	p, err := s.Processes.Process(lab.SpeakerOn(node))
	if err != nil {
		return err
	}
	if err := p.Pause(); err != nil {
		return err
	}
	begun := time.Now()
	waited := pause(ctx, d)
	if err := p.Resume(); err != nil {
		return err
	}
	if late := time.Since(begun) - d; late > 300*time.Millisecond {
		s.say("stopped for %s more than meant", late)
	}
	s.stops[d]++
	return errors.Join(waited, pause(ctx, between))
}

// summary tells what happened.
func (s *soak) summary(ctx context.Context, took time.Duration) {
	var made []string
	for _, d := range stops {
		made = append(made, fmt.Sprintf("%d of %s", s.stops[d], d))
	}
	s.say("%s; stops: %s", took.Round(time.Second), strings.Join(made, ", "))
	ends, err := s.counters(ctx, "belfry_gossip_suspicions_total{")
	if err != nil {
		return
	}
	sums := map[string]float64{}
	for series, n := range ends {
		_, end, _ := strings.Cut(series, " ")
		sums[strings.TrimSuffix(end, "}")] += n
	}
	var suspicions []string
	for _, end := range slices.Sorted(maps.Keys(sums)) {
		if sums[end] > 0 {
			suspicions = append(suspicions, fmt.Sprintf("%s %v", end, sums[end]))
		}
	}
	s.say("suspicions by their end: %s", strings.Join(suspicions, ", "))
}

// difference returns what has grown.
func difference(before, after map[string]float64) []string {
	var grown []string
	for _, series := range slices.Sorted(maps.Keys(after)) {
		if n := after[series] - before[series]; n > 0 {
			grown = append(grown, fmt.Sprintf("%s %v", strings.TrimSuffix(series, "}"), n))
		}
	}
	return grown
}

func eventually(ctx context.Context, within time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %s: %w", within, what, err)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Package demo shows a newcomer the product in a minute: a Service gets an
// address, a client on another host reaches it, its node dies, and another
// node answers.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// Options say how the demo is run.
type Options struct {
	// Nodes is the number of nodes; 3 when it is 0.
	Nodes int
	// Keep leaves the lab up, and says how to use it.
	Keep bool
	// Out takes what the demo says.
	Out io.Writer
}

// config is what a user writes: where addresses come from, and who announces.
const config = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata:
  name: edge
spec:
  addresses:
  - 198.51.100.200-198.51.100.250
  - 2001:db8:51::200-2001:db8:51::250
---
apiVersion: belfry.dev/v1beta1
kind: L2Advertisement
metadata:
  name: edge
spec:
  ipAddressPools: [edge]
`

// Run runs the demo. It takes the lab down again, also when it fails or ctx
// ends, unless it is to be kept.
func Run(ctx context.Context, opts Options) (err error) {
	d := &demo{out: opts.Out}
	d.step("Setting up: the packages and programs that the lab needs")
	if err := lab.InstallPackages(ctx, opts.Out); err != nil {
		return err
	}
	if why := lab.Unable(); why != nil {
		return why
	}
	if err := lab.BuildFor(ctx, opts.Out, lab.Options{}); err != nil {
		return err
	}
	d.step("Bringing a cluster up: each host is a network namespace, all are joined by a switch")
	d.lab, err = lab.Up(ctx, lab.Options{Nodes: opts.Nodes, Keep: opts.Keep, Progress: indent{opts.Out}})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n(logs are in %s)", err, d.lab.LogDir())
		}
		if opts.Keep {
			d.step("The lab stays up")
			fmt.Fprint(d.out, d.lab.Hints())
			return
		}
		d.step("Taking the cluster down")
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		if downErr := d.lab.Down(end); downErr != nil {
			err = errors.Join(err, downErr)
		} else if err == nil {
			err = d.lab.RemoveLogs()
		}
	}()
	for _, part := range []func(context.Context) error{d.install, d.configure, d.expose, d.request, d.killOwner} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

type demo struct {
	out   io.Writer
	lab   *lab.Lab
	steps int
	// addresses are the Service's, IPv4 first.
	addresses []netip.Addr
}

func (d *demo) step(format string, args ...any) {
	d.steps++
	fmt.Fprintf(d.out, "\n%d. "+format+"\n", append([]any{d.steps}, args...)...)
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "   "+format+"\n", args...) }

// kubectl shows a command and what it prints.
func (d *demo) kubectl(ctx context.Context, args ...string) error {
	d.say("$ kubectl %s", quoted(args))
	out, err := d.lab.Cluster.Kubectl(ctx, args...)
	if err != nil {
		return err
	}
	fmt.Fprint(indent{d.out}, out)
	return nil
}

// install puts the product into the cluster.
func (d *demo) install(ctx context.Context) error {
	d.step("Installing Belfry: CRDs and RBAC from manifests/, two controllers, a speaker on each node")
	if err := d.lab.Product.Install(ctx); err != nil {
		return err
	}
	for replica := range 2 {
		if _, err := d.lab.Product.StartController(ctx, replica); err != nil {
			return err
		}
	}
	for _, node := range d.lab.Network.Nodes() {
		if _, err := d.lab.Product.StartSpeaker(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// configure applies the pool and who announces it.
func (d *demo) configure(ctx context.Context) error {
	d.step("Saying which addresses there are, and that they are announced on this segment")
	fmt.Fprint(indent{d.out}, config)
	d.say("$ kubectl apply -f -")
	out, err := d.lab.Cluster.KubectlInput(ctx, config, "apply", "-f", "-")
	if err != nil {
		return err
	}
	fmt.Fprint(indent{d.out}, out)
	return nil
}

// expose makes a Service of type LoadBalancer and waits for its addresses.
func (d *demo) expose(ctx context.Context) error {
	d.step("Exposing a Deployment, as anywhere else")
	if err := d.kubectl(ctx, "create", "deployment", "web", "--image=lab/web", "--port=80", "--replicas=3"); err != nil {
		return err
	}
	if _, err := d.lab.Cluster.Kubectl(ctx, "rollout", "status", "deployment/web", "--timeout=60s"); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "expose", "deployment", "web", "--port=80", "--type=LoadBalancer"); err != nil {
		return err
	}
	if err := d.kubectl(ctx, "patch", "service", "web", `--patch={"spec":{"ipFamilyPolicy":"PreferDualStack"}}`); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for len(d.addresses) < 2 {
		out, err := d.lab.Cluster.Kubectl(limit, "get", "service", "web", "--output=jsonpath={.status.loadBalancer.ingress[*].ip}")
		if err != nil {
			return err
		}
		d.addresses = nil
		for field := range strings.FieldsSeq(out) {
			a, err := netip.ParseAddr(field)
			if err != nil {
				return err
			}
			d.addresses = append(d.addresses, a)
		}
		if err := pause(limit, 20*time.Millisecond); err != nil {
			status, _ := d.lab.Cluster.Kubectl(ctx, "get", "service", "web", "--output=jsonpath={.status}")
			return fmt.Errorf("the Service got no two addresses in 30 s: %s", status)
		}
	}
	return d.kubectl(ctx, "get", "service", "web")
}

// request curls both addresses from the client.
func (d *demo) request(ctx context.Context) error {
	d.step("Asking from the client, a host that is no part of the cluster")
	for _, address := range d.addresses {
		d.say("$ curl %s", lab.URL(address, 80))
		limit, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		for {
			reply, err := d.lab.Observers.Curl(limit, address, 80)
			if err == nil {
				d.say("node=%s pod=%s client=%s", reply.Node, reply.Pod, reply.Client)
				break
			}
			if pause(limit, 20*time.Millisecond) != nil {
				return fmt.Errorf("no answer: %w", err)
			}
		}
	}
	for _, address := range d.addresses {
		tool := "arping"
		if address.Is6() {
			tool = "ndisc6"
		}
		hosts, err := d.lab.Observers.Resolvers(ctx, address)
		if err != nil {
			return err
		}
		d.say("%s sees %s answer for %s", tool, strings.Join(hosts, " and "), address)
	}
	return nil
}

// An event is a line of the timeline.
type event struct {
	at   time.Time
	what string
}

// killOwner powers the owner off while the client asks, and tells what it saw.
func (d *demo) killOwner(ctx context.Context) error {
	owners, err := d.lab.Observers.Resolvers(ctx, d.addresses[0])
	if err != nil {
		return err
	}
	if len(owners) != 1 {
		return fmt.Errorf("%d hosts answer for %s: %v", len(owners), d.addresses[0], owners)
	}
	owner := owners[0]
	d.step("Cutting the power of %s, which answers for %s, while the client asks without pause", owner, d.addresses[0])
	if err := d.moveBackends(ctx, owner); err != nil {
		return err
	}
	watch, err := d.lab.Observers.Watch(lab.Client)
	if err != nil {
		return err
	}
	defer watch.Close()
	var (
		probers []*lab.Prober
		loads   []*lab.Load
	)
	for _, address := range d.addresses {
		prober, err := d.lab.Observers.Probe(address, 5*time.Millisecond)
		if err != nil {
			return err
		}
		defer prober.Stop()
		probers = append(probers, prober)
		load := d.lab.Observers.Load(address, 80, 20*time.Millisecond)
		defer load.Stop()
		loads = append(loads, load)
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	died := time.Now()
	if err := d.lab.Machines.PowerOff(ctx, owner); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for _, prober := range probers {
		if _, err := prober.AwaitAnswer(limit, func(a lab.Answer) bool { return a.Host != owner }); err != nil {
			return fmt.Errorf("nobody took over from %s: %w", owner, err)
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}

	events := []event{{died, owner + " loses power: its link is cut, its speaker and its kube-proxy are dead"}}
	summary := []string{}
	for i, prober := range probers {
		address, result := d.addresses[i], loads[i].Stop()
		report := prober.Stop()
		events = append(events, tell(report, watch.Claims(address), died)...)
		gap, _ := report.Since(died.Add(-500 * time.Millisecond)).LongestGap()
		summary = append(summary, fmt.Sprintf("%s: %d ms without an answer (%d of %d questions); HTTP: %d of %d requests failed, %d ms without a success",
			address, gap.Milliseconds(), len(report.Unanswered()), len(report.Questions), len(result.Failed), result.Requests, result.LongestGap.Milliseconds()))
	}
	slices.SortStableFunc(events, func(a, b event) int { return a.at.Compare(b.at) })
	fmt.Fprintln(d.out)
	d.say("What the client saw (it asked who has each address every 5 ms, and made 50 new connections a second to each):")
	for _, e := range events {
		d.say("%+8.3f s  %s", e.at.Sub(died).Seconds(), e.what)
	}
	fmt.Fprintln(d.out)
	for _, line := range summary {
		d.say("%s", line)
	}
	return nil
}

// moveBackends takes the doomed node's Pods out of service first: what fails
// afterwards is then due to the address alone, and not to kube-proxy sending
// connections to dead Pods until the cluster notices.
func (d *demo) moveBackends(ctx context.Context, node string) error {
	d.say("(its Pods are taken out of service first, so that what fails is due to the address alone)")
	if err := d.lab.Machines.Withdraw(ctx, node); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	const enough = 20 // requests in a row that went elsewhere
	for elsewhere := 0; elsewhere < enough; elsewhere++ {
		reply, err := d.lab.Observers.Get(limit, lab.Client, d.addresses[elsewhere%len(d.addresses)], 80)
		if limit.Err() != nil {
			return fmt.Errorf("requests still go to the Pods of %s, or fail: %w", node, cmp.Or(err, limit.Err()))
		}
		if err != nil || reply.Node == node {
			elsewhere = -1
		}
	}
	return nil
}

// tell turns what was seen of an address into events: who answered from when
// on, and the first announcement of each host.
func tell(report lab.Report, claims []lab.Claim, since time.Time) []event {
	var events []event
	for _, spell := range report.Timeline() {
		who := strings.Join(spell.Hosts, " and ") + " answers"
		switch {
		case len(spell.Hosts) == 0:
			who = "nobody answers"
		case len(spell.Hosts) > 1:
			who = strings.Join(spell.Hosts, " and ") + " answer"
		}
		events = append(events, event{spell.From, fmt.Sprintf("%s for %s", who, report.Address)})
	}
	var announced []string
	for _, c := range claims {
		if c.At.Before(since) || c.Kind.Answers() || slices.Contains(announced, c.Host) {
			continue
		}
		announced = append(announced, c.Host)
		events = append(events, event{c.At, fmt.Sprintf("%s tells everybody: %s is at %s (%s)", c.Host, c.Address, c.MAC, c.Kind)})
	}
	return events
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// quoted joins words as a shell would need them.
func quoted(words []string) string {
	var all []string
	for _, w := range words {
		if strings.ContainsAny(w, `{}" `) {
			flag, value, _ := strings.Cut(w, "=")
			w = flag + "='" + value + "'"
		}
		all = append(all, w)
	}
	return strings.Join(all, " ")
}

// indent sets lines under the step they belong to.
type indent struct{ w io.Writer }

func (i indent) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		if _, err := io.WriteString(i.w, "   "+line); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

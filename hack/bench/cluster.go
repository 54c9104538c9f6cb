package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/belfrylb/belfry/hack/lab"
)

// nodes is how many the cluster has.
const nodes = 3

// poolSize is how many addresses the pool of the mass of Services has.
const poolSize = 4096

// configuration has a pool on the segment for the Services that are asked for
// by a client, and a large one, of the addresses that RFC 2544 sets aside for
// measurements, for the mass of them.
const configuration = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: edge}
spec:
  addresses: [198.51.100.200-198.51.100.250, "2001:db8:51::200-2001:db8:51::250"]
  autoAssign: false
---
apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata: {name: mass}
spec:
  addresses: [198.18.0.0/20]
---
apiVersion: belfry.dev/v1beta1
kind: L2Advertisement
metadata: {name: all}
`

// asked is the Service that the client asks for.
const asked = `apiVersion: v1
kind: Service
metadata:
  name: asked
  annotations: {belfry.dev/address-pool: edge}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  ipFamilies: [IPv4, IPv6]
  selector: {app: web}
  ports: [{port: 80}]
`

// namespace is where the Services are.
const namespace = metav1.NamespaceDefault

// A cluster is a lab with the product in it.
type cluster struct {
	*lab.Lab
	api kubernetes.Interface
	// addresses are those of the Service that the client asks for, IPv4 first.
	addresses []netip.Addr
	// filled is set when the mass of Services is there, announced and settled.
	filled bool
	// routed is set when FRR runs on the router, routedByBIRD when BIRD does.
	routed, routedByBIRD bool
	// groups are the control groups of our processes, by name; see confine.
	groups map[string]*group
}

// need brings the cluster up, unless it is.
func (b *bench) need(ctx context.Context) (*cluster, error) {
	if b.cluster != nil {
		return b.cluster, nil
	}
	if err := lab.InstallPackages(ctx, b.progress); err != nil {
		return nil, err
	}
	if why := lab.Unable(); why != nil {
		return nil, why
	}
	if err := lab.BuildFor(ctx, b.progress, lab.Options{}); err != nil {
		return nil, err
	}
	if b.profile != "" {
		if err := os.Setenv("BELFRY_PROFILE", b.profile); err != nil { // for the programs, which inherit it
			return nil, err
		}
	}
	l, err := lab.Up(ctx, lab.Options{Nodes: nodes, Progress: b.progress, Profile: b.profile != ""})
	if err != nil {
		return nil, err
	}
	b.cluster = &cluster{Lab: l, groups: map[string]*group{}}
	config := l.Cluster.AdminConfig()
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	if b.cluster.api, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if err := l.Product.Build(ctx); err != nil {
		return nil, err // in our own control group: a linker needs more than the programs
	}
	if err := l.Product.Install(ctx); err != nil {
		return nil, err
	}
	if err := l.Cluster.Apply(ctx, configuration); err != nil {
		return nil, err
	}
	return b.cluster, l.Machines.Deploy(ctx, namespace, "web", nodes)
}

// well returns the cluster with all of ours running. What prevents that prevents
// it for good.
func (b *bench) well(ctx context.Context) (*cluster, error) {
	if b.broken {
		return nil, errors.New("the cluster is not well")
	}
	c, err := b.need(ctx)
	if err == nil {
		err = c.begin(ctx)
	}
	b.broken = err != nil
	return c, err
}

// takeDown takes the cluster down. Its logs stay when something failed.
func (b *bench) takeDown(ctx context.Context, failed bool) error {
	if b.cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := b.cluster.Down(ctx); err != nil {
		return err
	}
	for _, g := range b.cluster.groups {
		if err := g.remove(); err != nil {
			return err
		}
	}
	if failed {
		b.say("the logs are in %s", b.cluster.LogDir())
		return nil
	}
	return b.cluster.RemoveLogs()
}

// eventually waits until check returns nil. It waits in small steps, as what is
// waited for is often measured.
func eventually(ctx context.Context, within time.Duration, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return fmt.Errorf("not within %s: %s: %w", within, what, err)
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

const controllerName = "controller/0"

// ours are the names of our processes.
func (c *cluster) ours() []string {
	names := []string{controllerName}
	for _, node := range c.Network.Nodes() {
		names = append(names, lab.SpeakerOn(node))
	}
	return names
}

// begin starts the controller and the speakers, those that do not run, one after
// the other, and waits until all is well.
func (c *cluster) begin(ctx context.Context) error {
	if !c.alive(controllerName) {
		err := c.confine(controllerName, "controller.yaml", func() error {
			_, err := c.Product.StartController(ctx, 0)
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, node := range c.Network.Nodes() {
		if c.alive(lab.SpeakerOn(node)) {
			continue
		}
		err := c.confine(lab.SpeakerOn(node), "speaker.yaml", func() error {
			_, err := c.Product.StartSpeaker(ctx, node)
			return err
		})
		if err != nil {
			return err
		}
		err = eventually(ctx, time.Minute, "the speaker on "+node+" runs", func() error {
			_, err := c.Observers.Metrics(ctx, node, speakerMetrics)
			return err
		})
		if err != nil {
			return err
		}
	}
	return c.settle(ctx)
}

// confine starts one of our processes in a control group with the limit of memory that
// its manifest has.
func (c *cluster) confine(name, manifest string, start func() error) error {
	limit, err := shippedLimit(manifest)
	if err != nil {
		return err
	}
	if g := c.groups[name]; g != nil { // of the process that ran before
		if err := g.remove(); err != nil {
			return err
		}
	}
	g, err := newGroup(fmt.Sprintf("belfry-bench-%d-%s", os.Getpid(), strings.ReplaceAll(name, "/", "-")), limit)
	if err != nil {
		return err
	}
	c.groups[name] = g
	return g.begin(start)
}

// shareOfLimit is the most memory that one of our processes and what the kernel keeps
// for it ever took, as a part of the limit that is shipped.
func (c *cluster) shareOfLimit(name, manifest string) (float64, error) {
	limit, err := shippedLimit(manifest)
	if err != nil {
		return 0, err
	}
	peak, err := c.groups[name].peak()
	return peak / float64(limit), err
}

func (c *cluster) alive(name string) bool {
	p, err := c.Processes.Process(name)
	return err == nil && p.Alive()
}

// profiled does something while the controller, the speakers and the API server profile
// themselves, if they are to.
func (b *bench) profiled(ctx context.Context, c *cluster, do func() error) error {
	if b.profile == "" {
		return do()
	}
	toggle := func() (errs error) {
		for _, name := range c.ours() {
			p, err := c.Processes.Process(name)
			if err == nil {
				err = p.Signal(syscall.SIGUSR1)
			}
			errs = errors.Join(errs, err)
		}
		return errs
	}
	if err := toggle(); err != nil {
		return err
	}
	const seconds = 20
	var served sync.WaitGroup
	served.Go(func() {
		body, err := c.api.Discovery().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", strconv.Itoa(seconds)).DoRaw(ctx)
		if err == nil {
			err = os.WriteFile(filepath.Join(b.profile, "kube-apiserver.cpu.pprof"), body, 0o644)
		}
		if err != nil {
			b.say("no profile of the API server: %v", err)
		}
	})
	err := do()
	served.Wait()
	return errors.Join(err, toggle())
}

// end terminates the controller and the speakers.
func (c *cluster) end(ctx context.Context) error {
	var errs []error
	for _, name := range c.ours() {
		if !c.alive(name) {
			continue
		}
		p, err := c.Processes.Process(name)
		if err == nil {
			err = p.Terminate(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// settle waits until the controller leads and every speaker knows every other.
func (c *cluster) settle(ctx context.Context) error {
	err := eventually(ctx, time.Minute, "the controller leads", func() error {
		m, err := c.Observers.Metrics(ctx, lab.ControlPlane, controllerMetrics)
		if err == nil && m["belfry_controller_leader"] != 1 {
			err = errors.New("it does not")
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, node := range c.Network.Nodes() {
		err := eventually(ctx, time.Minute, "the speaker on "+node+" knows the others", func() error {
			m, err := c.Observers.Metrics(ctx, node, speakerMetrics)
			if err != nil {
				return err
			}
			members := 0
			for series, value := range m {
				if strings.HasPrefix(series, "belfry_gossip_members{") {
					members += int(value)
				}
			}
			if members != nodes {
				return fmt.Errorf("it knows %d members", members)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	controllerMetrics = 7882
	speakerMetrics    = 7872
)

// serve creates the Service that the client asks for, unless it is there.
func (c *cluster) serve(ctx context.Context) error {
	if len(c.addresses) > 0 {
		return nil
	}
	if err := c.Cluster.Apply(ctx, asked); err != nil {
		return err
	}
	return eventually(ctx, 30*time.Second, "the Service has two addresses", func() error {
		s, err := c.api.CoreV1().Services(namespace).Get(ctx, "asked", metav1.GetOptions{})
		if err != nil {
			return err
		}
		var all []netip.Addr
		for _, in := range s.Status.LoadBalancer.Ingress {
			a, err := netip.ParseAddr(in.IP)
			if err != nil {
				return err
			}
			all = append(all, a)
		}
		if len(all) != 2 {
			return fmt.Errorf("its status is %+v", s.Status)
		}
		c.addresses = all
		return nil
	})
}

// uses is what a process has used and holds.
type uses struct {
	cpu    time.Duration
	memory memory
}

func (c *cluster) usesOf(name string) (uses, error) {
	p, err := c.Processes.Process(name)
	if err != nil {
		return uses{}, err
	}
	var u uses
	if u.cpu, err = processorTime(p.PID()); err != nil {
		return uses{}, fmt.Errorf("%s: %w", name, err)
	}
	u.memory, err = memoryOf(p.PID())
	return u, err
}

// allUses is usesOf for all of ours.
func (c *cluster) allUses() (map[string]uses, error) {
	all := map[string]uses{}
	for _, name := range c.ours() {
		u, err := c.usesOf(name)
		if err != nil {
			return nil, err
		}
		all[name] = u
	}
	return all, nil
}

// idle measures freshly started processes in a cluster without Services of ours.
func idle(ctx context.Context, b *bench) error {
	c, err := b.well(ctx)
	if err != nil {
		return err
	}
	const rest = 10 * time.Second // what it takes to start is over
	if err := pause(ctx, rest); err != nil {
		return err
	}
	all, err := c.allUses()
	if err != nil {
		return err
	}
	var largest memory
	for _, node := range c.Network.Nodes() {
		if m := all[lab.SpeakerOn(node)].memory; m.now > largest.now {
			largest = m
		}
	}
	controller := all[controllerName].memory
	b.found("idle/controller", controller.now, "heap and stacks %s", inBytes.format(controller.own))
	b.found("idle/speaker", largest.now, "heap and stacks %s", inBytes.format(largest.own))
	return nil
}

// isAnnounced reports whether a Service's condition says so, and its reason.
func isAnnounced(s *corev1.Service) (announced bool, reason string) {
	for _, have := range s.Status.Conditions {
		if have.Type == "belfry.dev/Announced" {
			return have.Status == metav1.ConditionTrue, have.Reason
		}
	}
	return false, ""
}

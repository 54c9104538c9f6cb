// Package install proves that the product can be installed, used, upgraded and
// removed as docs/how-to/install.md says, by the very commands that stand there:
// from manifests/belfry.yaml by kubectl alone, and from the chart by Helm, on nodes
// with a kubelet and containerd, out of the image that is released.
//
// While something is changed a client asks for all addresses without pause, for
// the page and, by layer 2, for the hardware address, and what is lost is told
// in a timeline. A change that was planned (a rolling update, a drain) may lose
// nothing.
package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// Options say how it is run.
type Options struct {
	// Short leaves out all that takes long: what remains is installing, reaching
	// a Service, one rolling update of the speaker, and removing.
	Short bool
	// Chart leaves out all that is not done by Helm.
	Chart bool
	// Planned is how many rounds of planned changes are made, and nothing else;
	// 0 is for all that there is, once.
	Planned int
	// Keep leaves the lab up, and says how to use it.
	Keep bool
	// Out takes what is said.
	Out io.Writer
}

// Versions of the image: the one that the manifests name, which is empty here,
// and the one that it is updated to.
const newer = "newer"

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

// Run runs it, and takes the lab down again also when it fails or ctx ends,
// unless it is to be kept. The error says what does not hold; it goes on after
// a loss, to tell of all.
func Run(ctx context.Context, opts Options) (err error) {
	r := &run{out: opts.Out, begun: time.Now()}
	r.step("Setting up: packages, Kubernetes' programs, the images")
	if err := lab.InstallPackages(ctx, opts.Out); err != nil {
		return err
	}
	if why := lab.UnableContainers(); why != nil {
		return why
	}
	if _, err := lab.Build(ctx, opts.Out); err != nil {
		return err
	}
	if r.root, err = lab.Root(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "belfry-install-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	images, err := r.images(ctx, dir, opts)
	if err != nil {
		return err
	}
	r.step("Bringing a cluster up: on each node a kubelet, containerd and kube-proxy")
	r.lab, err = lab.Up(ctx, lab.Options{Nodes: 3, Containers: true, Images: images, Keep: opts.Keep, Progress: indent{opts.Out}})
	if err != nil {
		return err
	}
	defer func() { err = r.end(ctx, opts, err) }()

	byKubectl := []func(context.Context) error{r.install, r.configure, r.expose, r.reach, r.route, r.restartSpeakers}
	if !opts.Short {
		byKubectl = append(byKubectl, r.restartControllers, r.upgrade, r.drainAnnotated, r.drainNode, r.deleteNode, r.powerOff)
	}
	byKubectl = append(byKubectl, r.uninstall)
	byHelm := []func(context.Context) error{r.chart, func(ctx context.Context) error { return r.changeValue(ctx, "log.level=debug") }, r.withoutPowers, r.uninstallChart}
	switch {
	case opts.Planned > 0:
		byKubectl = []func(context.Context) error{r.deploy, r.startRouter}
		// A failure comes first, as what it leaves behind must not matter.
		byHelm = []func(context.Context) error{r.chart, r.powerOff, func(ctx context.Context) error { return r.rounds(ctx, opts.Planned) }}
	case opts.Chart:
		byKubectl = []func(context.Context) error{r.deploy, r.startRouter}
	case opts.Short:
		byHelm = nil
	}
	for _, part := range slices.Concat(byKubectl, byHelm) {
		if err := part(ctx); err != nil {
			return errors.Join(append(r.faults, err)...)
		}
	}
	return errors.Join(r.faults...)
}

type run struct {
	out io.Writer
	// root is the source tree's.
	root  string
	lab   *lab.Lab
	begun time.Time
	steps int
	// addresses are announced by layer 2, routed by BGP; IPv4 first.
	addresses, routed []netip.Addr
	// faults are what did not hold, so far.
	faults []error
	// last is what the last change cost.
	last tally
}

func (r *run) step(format string, args ...any) {
	r.steps++
	fmt.Fprintf(r.out, "\n%d. "+format+"  [%s]\n", append(append([]any{r.steps}, args...), time.Since(r.begun).Round(time.Second))...)
}

func (r *run) say(format string, args ...any) { fmt.Fprintf(r.out, "   "+format+"\n", args...) }

// fault notes what does not hold, and goes on.
func (r *run) fault(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	r.faults = append(r.faults, err)
	r.say("FAULT: %v", err)
}

// kubectl shows a command and what it prints.
func (r *run) kubectl(ctx context.Context, args ...string) error {
	r.say("$ kubectl %s", strings.Join(args, " "))
	out, err := r.lab.Cluster.Kubectl(ctx, args...)
	fmt.Fprint(indent{r.out}, out)
	return err
}

// get returns one value of an object.
func (r *run) get(ctx context.Context, jsonpath string, what ...string) (string, error) {
	return r.lab.Cluster.Kubectl(ctx, append(append([]string{"get"}, what...), "--output=jsonpath="+jsonpath)...)
}

// images builds the product's image as it is released, and one that differs by
// its version.
func (r *run) images(ctx context.Context, dir string, opts Options) ([]string, error) {
	versions := []string{""}
	if !opts.Short && opts.Planned == 0 {
		versions = append(versions, newer)
	}
	var files []string
	for i, version := range versions {
		begun := time.Now()
		to := filepath.Join(dir, fmt.Sprint(i))
		if err := lab.BuildImages(ctx, to, version, "belfry"); err != nil {
			return nil, err
		}
		r.say("built the image in %s", time.Since(begun).Round(100*time.Millisecond))
		files = append(files, filepath.Join(to, "belfry.tar"))
	}
	return files, nil
}

func (r *run) end(ctx context.Context, opts Options, err error) error {
	if err != nil {
		r.diagnose(context.WithoutCancel(ctx))
		err = fmt.Errorf("%w\n(logs are in %s)", err, r.lab.LogDir())
	}
	if opts.Keep {
		r.step("The lab stays up")
		fmt.Fprint(r.out, r.lab.Hints())
		return err
	}
	r.step("Taking the cluster down")
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if downErr := r.lab.Down(limit); downErr != nil {
		return errors.Join(err, downErr)
	}
	if err == nil {
		err = r.lab.RemoveLogs()
		r.say("all is well, after %s", time.Since(r.begun).Round(time.Second))
	}
	return err
}

// diagnose shows what the cluster says, for whoever has to find out why.
func (r *run) diagnose(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for _, args := range [][]string{
		{"get", "nodes,pods,services", "--all-namespaces", "--output=wide"},
		{"get", "events", "--all-namespaces", "--field-selector=type=Warning"},
		{"logs", "--namespace=" + lab.Namespace, "--selector=app.kubernetes.io/name=belfry", "--prefix", "--tail=40"},
	} {
		if err := r.kubectl(ctx, args...); err != nil {
			r.say("%v", err)
		}
	}
}

// rolledOut waits until both programs run everywhere and are ready.
func (r *run) rolledOut(ctx context.Context) error {
	for _, what := range []string{"deployment/belfry-controller", "daemonset/belfry-speaker"} {
		if err := r.kubectl(ctx, "rollout", "status", what, "--namespace="+lab.Namespace, "--timeout=120s"); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) install(ctx context.Context) error {
	r.step("Installing: one file")
	begun := time.Now()
	if err := r.documented(ctx, "## The first address in five minutes", 0); err != nil {
		return err
	}
	r.say("all is ready %s after kubectl apply", time.Since(begun).Round(100*time.Millisecond))
	restarts, err := r.get(ctx, "{.items[*].status.containerStatuses[*].restartCount}", "pods", "--namespace="+lab.Namespace)
	if err != nil {
		return err
	}
	if strings.Trim(restarts, "0 ") != "" {
		r.fault("containers had to be restarted on the way: %s", restarts)
	}
	return nil
}

func (r *run) configure(ctx context.Context) error {
	r.say("saying which addresses there are, and that they are announced on this segment")
	r.say("$ kubectl apply -f pool.yaml")
	out, err := r.lab.Cluster.KubectlInput(ctx, config, "apply", "-f", "-")
	fmt.Fprint(indent{r.out}, out)
	return err
}

func (r *run) expose(ctx context.Context) (err error) {
	r.step("Exposing a Deployment, as anywhere else")
	if err := r.deploy(ctx); err != nil {
		return err
	}
	r.addresses, err = r.exposeAs(ctx, "web", dualStack)
	return err
}

// deploy makes the Deployment that is exposed.
func (r *run) deploy(ctx context.Context) error {
	for _, args := range [][]string{
		{"create", "deployment", "web", "--image=" + lab.WebImage, "--replicas=3"},
		{"patch", "deployment", "web", "--type=json", "--patch=" + readiness},
		{"rollout", "status", "deployment/web", "--timeout=120s"},
	} {
		if err := r.kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// readiness keeps requests from a Pod that does not listen yet.
const readiness = `[{"op":"add","path":"/spec/template/spec/containers/0/readinessProbe","value":{"httpGet":{"port":8080},"periodSeconds":1}}]`

const dualStack = `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`

// exposeAs makes a Service of the Deployment and returns its addresses, IPv4
// first.
func (r *run) exposeAs(ctx context.Context, name, overrides string) (addresses []netip.Addr, err error) {
	if err := r.kubectl(ctx, "expose", "deployment", "web", "--name="+name, "--port=80", "--target-port=8080", "--type=LoadBalancer", "--overrides="+overrides); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := r.until(ctx, 30*time.Second, "Service "+name+" has two addresses", func() error {
		out, err := r.get(ctx, "{.status.loadBalancer.ingress[*].ip}", "service", name)
		if err != nil {
			return err
		}
		if addresses, err = parseAddresses(out); err != nil {
			return err
		}
		if len(addresses) != 2 {
			return fmt.Errorf("it has %v", addresses)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	r.say("after %s:", time.Since(begun).Round(10*time.Millisecond))
	return addresses, r.kubectl(ctx, "get", "service", name)
}

func (r *run) reach(ctx context.Context) error {
	r.step("Asking from the client, a host that is no part of the cluster")
	for _, address := range r.addresses {
		if err := r.curl(ctx, address); err != nil {
			return err
		}
		owner, err := r.owner(ctx, address)
		if err != nil {
			return err
		}
		r.say("%s answers for %s", owner, address)
	}
	return nil
}

// curl asks until somebody answers.
func (r *run) curl(ctx context.Context, address netip.Addr) error {
	return r.until(ctx, 20*time.Second, "curl "+lab.URL(address, 80), func() error {
		reply, err := r.lab.Observers.Curl(ctx, address, 80)
		if err == nil {
			r.say("$ curl %s\n   pod=%s client=%s", lab.URL(address, 80), reply.Pod, reply.Client)
		}
		return err
	})
}

// owner is the one host that answers for an address.
func (r *run) owner(ctx context.Context, address netip.Addr) (string, error) {
	hosts, err := r.lab.Observers.Resolvers(ctx, address)
	if err == nil && len(hosts) != 1 {
		err = fmt.Errorf("%d hosts answer for %s: %v", len(hosts), address, hosts)
	}
	if err != nil {
		return "", err
	}
	return hosts[0], nil
}

// until waits until check returns nil.
func (r *run) until(ctx context.Context, within time.Duration, what string, check func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("not within %s: %s: %w", within, what, err)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
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

// parseAddresses reads addresses between blanks.
func parseAddresses(text string) (addresses []netip.Addr, err error) {
	for field := range strings.FieldsSeq(text) {
		a, err := netip.ParseAddr(field)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

package install

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// routed is what a user writes for addresses that are on no segment.
const routed = `apiVersion: belfry.dev/v1beta1
kind: IPAddressPool
metadata:
  name: routed
spec:
  autoAssign: false
  addresses: [203.0.113.0/24, "2001:db8:113::/120"]
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata:
  name: router
spec:
  myASN: 64512
  peerASN: 64513
  peerAddress: 198.51.100.1
  addressFamilies: [IPv4, IPv6]
  connectTime: 1s
---
apiVersion: belfry.dev/v1beta1
kind: BGPAdvertisement
metadata:
  name: routed
spec:
  ipAddressPools: [routed]
`

// frr configures the router: every node is a neighbor, and connections are
// spread over all that advertise an address.
func (r *run) frr() string {
	lines := []string{
		"router bgp 64513", " bgp router-id 198.51.100.1", " no bgp ebgp-requires-policy",
		" neighbor nodes peer-group", " neighbor nodes remote-as 64512", " neighbor nodes passive",
	}
	for _, node := range r.lab.Network.Nodes() {
		v4, _ := r.lab.Network.Addresses(node)
		lines = append(lines, " neighbor "+v4.String()+" peer-group nodes")
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		lines = append(lines, " address-family "+family+" unicast", "  maximum-paths 8", "  neighbor nodes activate", " exit-address-family")
	}
	return strings.Join(append(lines, "exit"), "\n") + "\n"
}

// startRouter starts FRR.
func (r *run) startRouter(ctx context.Context) error {
	if err := lab.UnableFRR(); err != nil {
		return err
	}
	return r.lab.Routers.StartFRR(ctx, r.frr())
}

func (r *run) route(ctx context.Context) error {
	r.step("Exposing it by BGP too: a pool that is on no segment, and FRR as the router")
	if err := r.startRouter(ctx); err != nil {
		return err
	}
	r.say("$ kubectl apply -f bgp.yaml")
	out, err := r.lab.Cluster.KubectlInput(ctx, routed, "apply", "-f", "-")
	fmt.Fprint(indent{r.out}, out)
	if err != nil {
		return err
	}
	if r.routed, err = r.exposeAs(ctx, "routed", inPoolRouted); err != nil {
		return err
	}
	return r.spread(ctx)
}

// inPoolRouted makes a Service take its addresses from the pool for routers.
const inPoolRouted = `{"metadata":{"annotations":{"belfry.dev/address-pool":"routed"}},"spec":{"ipFamilyPolicy":"RequireDualStack"}}`

// nextHops are where the router's kernel sends the traffic of an address.
func (r *run) nextHops(ctx context.Context, address netip.Addr) ([]string, error) {
	out, err := r.lab.Network.Exec(ctx, lab.Router, "ip", "route", "show", "exact", netip.PrefixFrom(address, address.BitLen()).String(), "proto", "bgp")
	if address.Is6() {
		out, err = r.lab.Network.Exec(ctx, lab.Router, "ip", "-6", "route", "show", "exact", netip.PrefixFrom(address, address.BitLen()).String(), "proto", "bgp")
	}
	var hops []string
	fields := strings.Fields(out)
	for i, f := range fields[:max(0, len(fields)-1)] {
		if f == "via" {
			hops = append(hops, fields[i+1])
		}
	}
	slices.Sort(hops)
	return slices.Compact(hops), err
}

// A routeWatch records when the router's routes to addresses change.
type routeWatch struct {
	cmd  *exec.Cmd
	done sync.WaitGroup
	mu   sync.Mutex
	seen []event
}

func (r *run) watchRoutes(ctx context.Context) (*routeWatch, error) {
	w := &routeWatch{cmd: r.lab.Network.Command(ctx, lab.Router, "ip", "-oneline", "monitor", "route")}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	w.done.Go(func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			w.mu.Lock()
			w.seen = append(w.seen, event{time.Now(), sc.Text()})
			w.mu.Unlock()
		}
	})
	return w, nil
}

// stop ends the watch.
func (w *routeWatch) stop() {
	_ = w.cmd.Process.Kill()
	w.done.Wait()
	_ = w.cmd.Wait()
}

// A routeChange is the router's new mind about an address.
type routeChange struct {
	at time.Time
	// hops is the number of nodes that it sends the address's traffic to.
	hops int
}

// of are the changes of one address.
func (w *routeWatch) of(address netip.Addr) []routeChange {
	w.mu.Lock()
	defer w.mu.Unlock()
	var changes []routeChange
	for _, e := range w.seen {
		// A route that is replaced is shown as deleted and added, or as added only;
		// one that goes is shown as deleted only.
		fields := strings.Fields(strings.ReplaceAll(e.what, `\`, " "))
		deleted := len(fields) > 0 && fields[0] == "Deleted"
		if deleted {
			fields = fields[1:]
		}
		if len(fields) == 0 || fields[0] != address.String() {
			continue
		}
		c := routeChange{at: e.at}
		if !deleted {
			c.hops = strings.Count(" "+strings.Join(fields, " "), " via ")
		}
		// The two of a replacement are one change.
		if n := len(changes); n > 0 && changes[n-1].hops == 0 && c.at.Sub(changes[n-1].at) < 20*time.Millisecond {
			changes = changes[:n-1]
		}
		changes = append(changes, c)
	}
	return changes
}

func tellRoutes(address netip.Addr, changes []routeChange) []event {
	var events []event
	for _, c := range changes {
		events = append(events, event{c.at, fmt.Sprintf("the router sends %s to %d nodes", address, c.hops)})
	}
	return events
}

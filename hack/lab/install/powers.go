package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// secured is what a user writes for a router that believes nobody: on each session
// a password, on one a TTL that only a neighbor can have, and on the other BFD.
// (FRR takes a neighbor with ttl-security for one that is hops away, whose BFD is
// another.)
const (
	secret  = "Tr0ub4dor-and-three"
	secured = `apiVersion: v1
kind: Secret
metadata: {name: router, namespace: belfry-system}
type: kubernetes.io/basic-auth
stringData: {username: none, password: ` + secret + `}
---
apiVersion: belfry.dev/v1beta1
kind: BFDProfile
metadata: {name: quick}
spec: {receiveInterval: 300, transmitInterval: 300}
---
apiVersion: belfry.dev/v1beta1
kind: BGPPeer
metadata: {name: router6}
spec:
  myASN: 64512
  peerASN: 64513
  peerAddress: "2001:db8:51::1"
  connectTime: 1s
  passwordSecret: {name: router}
  bfdProfile: quick
`
	securing = `{"spec":{"passwordSecret":{"name":"router"},"ttlSecurity":1,"addressFamilies":["IPv4"]}}`
)

// routeSecured exposes the Deployment by BGP, with all that a router can ask for.
func (r *run) routeSecured(ctx context.Context) (err error) {
	r.step("By BGP too: with a password on both sessions, TTL security on one, BFD on the other")
	commands := []string{
		"configure terminal", "router bgp 64513", "neighbor nodes password " + secret, "neighbor nodes ttl-security hops 1",
		"neighbor nodes6 peer-group", "neighbor nodes6 remote-as 64512", "neighbor nodes6 passive", "neighbor nodes6 password " + secret, "neighbor nodes6 bfd",
	}
	for _, node := range r.lab.Network.Nodes() {
		_, v6 := r.lab.Network.Addresses(node)
		commands = append(commands, "neighbor "+v6.String()+" peer-group nodes6")
	}
	commands = append(commands, "address-family ipv4 unicast", "no neighbor nodes6 activate", "exit-address-family", "address-family ipv6 unicast", "neighbor nodes6 activate", "exit-address-family")
	if _, err := r.lab.Routers.Vtysh(ctx, commands...); err != nil {
		return err
	}
	r.say("$ kubectl apply -f bgp.yaml")
	out, err := r.lab.Cluster.KubectlInput(ctx, routed+"---\n"+secured, "apply", "-f", "-")
	fmt.Fprint(indent{r.out}, out)
	if err != nil {
		return err
	}
	if err := r.kubectl(ctx, "patch", "bgppeer", "router", "--type=merge", "--patch="+securing); err != nil {
		return err
	}
	if r.routed, err = r.exposeAs(ctx, "routed", inPoolRouted); err != nil {
		return err
	}
	if err := r.spread(ctx); err != nil {
		return err
	}
	return r.watchedByBFD(ctx)
}

// watchedByBFD waits until the router has a BFD session with every node.
func (r *run) watchedByBFD(ctx context.Context) error {
	if err := r.until(ctx, 60*time.Second, "BFD is up on every node", func() error {
		var peers []struct{ Peer, Status string }
		err := r.lab.Routers.VtyshJSON(ctx, "show bfd peers", &peers)
		up := slices.DeleteFunc(slices.Clone(peers), func(p struct{ Peer, Status string }) bool { return p.Status != "up" })
		if err == nil && len(up) != len(r.lab.Network.Nodes()) {
			err = fmt.Errorf("the router has %v", peers)
		}
		return err
	}); err != nil {
		return err
	}
	r.say("BFD is up between the router and every node")
	return nil
}

// withoutPowers leaves the speakers nothing but the network, as overlays/bgp does,
// and proves that BGP needs no more, whatever the router asks for.
func (r *run) withoutPowers(ctx context.Context) error {
	r.step("Taking user root and NET_RAW from the speakers, for BGP needs neither; planned for what is routed")
	before, err := r.look()
	if err != nil {
		return err
	}
	for _, p := range before {
		r.say("before: %s", p)
	}
	script, err := Commands(r.root, "## Upgrade", 1)
	if err != nil {
		return err
	}
	bySegment := r.addresses
	r.addresses = nil
	if err := r.during(ctx, planned, func(note func(string, ...any)) error {
		note("helm upgrade ... --set speaker.rawSockets=false")
		if err := r.shell(ctx, strings.TrimSuffix(script, "\n")+" --set speaker.rawSockets=false"); err != nil {
			return err
		}
		return r.rolledOut(ctx)
	}); err != nil {
		return err
	}
	after, err := r.look()
	if err != nil {
		return err
	}
	for _, p := range after {
		r.say("now: %s", p)
		if p != (powers{User: "65532", Effective: "0000000000000000", Bounding: "0000000000000000", NoNewPrivileges: "1", Seccomp: "2"}) {
			r.fault("a speaker has more powers than BGP needs: %s", p)
		}
	}
	if len(before) != len(r.lab.Network.Nodes()) || len(after) != len(before) || slices.Equal(before, after) {
		r.fault("the speakers' powers were %v and are %v", before, after)
	}
	if err := r.spread(ctx); err != nil {
		return err
	}
	if err := r.watchedByBFD(ctx); err != nil {
		return err
	}
	// What cannot be announced is not claimed to be.
	for _, address := range bySegment {
		if hosts, err := r.lab.Observers.Resolvers(ctx, address); err != nil || len(hosts) > 0 {
			r.fault("%v answer for %s (%v)", hosts, address, err)
		}
	}
	return r.until(ctx, 30*time.Second, "the Service says that no node can announce it", func() error {
		out, err := r.get(ctx, `{range .status.conditions[?(@.type=="belfry.dev/Announced")]}{.status} {.reason}: {.message}{end}`, "service", "web")
		if err == nil && !strings.HasPrefix(out, "False ") {
			err = errors.New("it says " + out)
		}
		if err == nil {
			r.say("Service web: belfry.dev/Announced is %s", out)
		}
		return err
	})
}

// powers are what a process may do, as the kernel says.
type powers struct{ User, Effective, Bounding, NoNewPrivileges, Seccomp string }

// String is the powers in a line.
func (p powers) String() string {
	return fmt.Sprintf("the speaker runs as user %s, capabilities %s, at most %s, no_new_privs %s, seccomp mode %s", p.User, p.Effective, p.Bounding, p.NoNewPrivileges, p.Seccomp)
}

// look looks at the processes that are this run's speakers.
func (r *run) look() ([]powers, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []powers
	for _, dir := range dirs {
		comm, err1 := os.ReadFile(filepath.Join(dir, "comm"))
		groups, err2 := os.ReadFile(filepath.Join(dir, "cgroup"))
		status, err3 := os.ReadFile(filepath.Join(dir, "status"))
		if errors.Join(err1, err2, err3) != nil { // it has ended
			continue
		}
		if string(bytes.TrimSpace(comm)) != "belfry-speaker" || !bytes.Contains(groups, []byte("/"+r.lab.Name+"-")) {
			continue
		}
		var p powers
		for key, field := range map[string]*string{"Uid:": &p.User, "CapEff:": &p.Effective, "CapBnd:": &p.Bounding, "NoNewPrivs:": &p.NoNewPrivileges, "Seccomp:": &p.Seccomp} {
			_, rest, _ := strings.Cut(string(status), "\n"+key)
			*field = strings.Fields(rest)[0]
		}
		all = append(all, p)
	}
	return all, nil
}

// spread waits until every node advertises what is routed, and asks for it.
func (r *run) spread(ctx context.Context) error {
	for _, address := range r.routed {
		if err := r.curl(ctx, address); err != nil {
			return err
		}
		if err := r.everyNode(ctx, address); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) everyNode(ctx context.Context, address netip.Addr) error {
	if err := r.until(ctx, 30*time.Second, "every node advertises "+address.String(), func() error {
		hops, err := r.nextHops(ctx, address)
		if err == nil && len(hops) != len(r.lab.Network.Nodes()) {
			err = fmt.Errorf("the router's next hops are %v", hops)
		}
		return err
	}); err != nil {
		return err
	}
	r.say("the router spreads %s over all nodes", address)
	return nil
}

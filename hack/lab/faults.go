package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// CutLink takes a host's port at the switch down: its cable is out. The host
// sees the loss of carrier.
func (l *Lab) CutLink(ctx context.Context, host string) error {
	return ipBatch(ctx, l.Netns(Switch), []string{"link set " + host + " down"})
}

// HealLink puts the cable back.
func (l *Lab) HealLink(ctx context.Context, host string) error {
	return ipBatch(ctx, l.Netns(Switch), []string{"link set " + host + " up"})
}

// Cable joins a host to the segment by one more interface, which is up and has no
// address of IPv4. It returns the name of the switch's port, which CutLink and
// HealLink take like a host's.
func (l *Lab) Cable(ctx context.Context, host, nic string) (port string, err error) {
	port = nic + "-" + host
	mac := net.HardwareAddr{0x02, 0xbe, 0x1f, 0, 2, byte(hostNumber(host))}
	if err := ipBatch(ctx, "", []string{fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s address %s",
		port, l.Netns(Switch), nic, l.Netns(host), mac)}); err != nil {
		return "", err
	}
	if err := ipBatch(ctx, l.Netns(host), []string{"link set " + nic + " up"}); err != nil {
		return "", err
	}
	if err := ipBatch(ctx, l.Netns(Switch), []string{"link set " + port + " master br0 up"}); err != nil {
		return "", err
	}
	return port, l.know(mac, host)
}

// Uncable takes such an interface away for good.
func (l *Lab) Uncable(ctx context.Context, host, nic string) error {
	return ipBatch(ctx, l.Netns(host), []string{"link del " + nic})
}

// A Drop is a fault of the switch: frames that come in from one of From and
// would go out to one of To are lost.
type Drop struct {
	From []string `json:"from"`
	To   []string `json:"to"`
	// Share is how many of them, from 0 to 1; they are drawn at random.
	Share float64 `json:"share"`
}

// Lose loses a share (0 to 1) of all frames from some hosts to others, in that
// direction. It adds to the faults there are.
func (l *Lab) Lose(ctx context.Context, from, to []string, share float64) error {
	return l.drop(ctx, Drop{From: from, To: to, Share: share})
}

// Block loses every frame from some hosts to others, in that direction. The
// hosts' links stay up, as behind a switch further away.
func (l *Lab) Block(ctx context.Context, from, to []string) error {
	return l.Lose(ctx, from, to, 1)
}

// Partition blocks all traffic between the groups. Hosts in no group reach all.
func (l *Lab) Partition(ctx context.Context, groups ...[]string) error {
	var drops []Drop
	for i, a := range groups {
		for j, b := range groups {
			if i != j {
				drops = append(drops, Drop{From: a, To: b, Share: 1})
			}
		}
	}
	return l.drop(ctx, drops...)
}

// HealNetwork ends every Block, Lose and Partition.
func (l *Lab) HealNetwork(ctx context.Context) error {
	l.mu.Lock()
	l.state.Drops = nil
	l.mu.Unlock()
	return l.drop(ctx)
}

func (l *Lab) drop(ctx context.Context, more ...Drop) error {
	for _, d := range more {
		if len(d.From) == 0 || len(d.To) == 0 || !(d.Share > 0 && d.Share <= 1) {
			return fmt.Errorf("a drop is from some hosts to some hosts, with a share above 0 and up to 1: %+v", d)
		}
		for _, h := range slices.Concat(d.From, d.To) {
			if !slices.Contains(l.Hosts(), h) {
				return fmt.Errorf("no host %q; there are %v", h, l.Hosts())
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state.Drops = append(l.state.Drops, more...)
	if _, err := l.run(ctx, Switch, switchRules(l.state.Drops), "nft", "-f", "-"); err != nil {
		return err
	}
	return l.save()
}

// switchRules is the nft ruleset of the switch. It replaces the one before in
// one transaction.
func switchRules(drops []Drop) string {
	var b strings.Builder
	b.WriteString("table bridge lab\ndelete table bridge lab\ntable bridge lab {\n chain forward {\n  type filter hook forward priority 0\n")
	for _, d := range drops {
		fmt.Fprintf(&b, "  iifname { %s } oifname { %s } ", strings.Join(d.From, ", "), strings.Join(d.To, ", "))
		if d.Share < 1 {
			const parts = 10000
			fmt.Fprintf(&b, "numgen random mod %d < %d ", parts, max(1, int(math.Round(d.Share*parts))))
		}
		b.WriteString("counter drop\n")
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

// PauseAPI stops the API server (SIGSTOP): connections stay and nothing is
// answered.
func (l *Lab) PauseAPI() error { return l.on("kube-apiserver", (*Process).Pause) }

// ResumeAPI lets the API server go on.
func (l *Lab) ResumeAPI() error { return l.on("kube-apiserver", (*Process).Resume) }

// PauseEtcd stops etcd (SIGSTOP): the API server still reads what it has cached,
// and every write waits.
func (l *Lab) PauseEtcd() error { return l.on("etcd", (*Process).Pause) }

// ResumeEtcd lets etcd go on.
func (l *Lab) ResumeEtcd() error { return l.on("etcd", (*Process).Resume) }

// BackupEtcd keeps the state of the cluster as it is; the API server is without
// etcd for a moment.
func (l *Lab) BackupEtcd(ctx context.Context) error {
	return l.whileEtcdIsDown(ctx, func(data, backup string) error {
		return errors.Join(os.RemoveAll(backup), os.CopyFS(backup, os.DirFS(data)))
	})
}

// RestoreEtcd puts the state of the cluster back to what was kept, versions of
// objects included.
func (l *Lab) RestoreEtcd(ctx context.Context) error {
	return l.whileEtcdIsDown(ctx, func(data, backup string) error {
		return errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(backup)))
	}, "kube-apiserver")
}

// whileEtcdIsDown stops etcd, does something to its data, and starts it again. Others
// are killed meanwhile: an API server that is asked to end waits a minute for those
// who watch.
func (l *Lab) whileEtcdIsDown(ctx context.Context, do func(data, backup string) error, others ...string) error {
	etcd, err := l.Process("etcd")
	if err != nil {
		return err
	}
	parts := []*Process{etcd}
	for _, name := range others {
		p, err := l.Process(name)
		if err != nil {
			return err
		}
		if err := p.Kill(ctx); err != nil {
			return err
		}
		parts = append(parts, p)
	}
	if err := etcd.Terminate(ctx); err != nil {
		return err
	}
	data := filepath.Join(l.Dir, dataDir, "etcd")
	if err := do(data, data+".backup"); err != nil {
		return err
	}
	for _, p := range parts {
		if err := l.Restart(ctx, p.Name); err != nil {
			return err
		}
	}
	return l.awaitAPI(ctx, parts...)
}

func (l *Lab) on(name string, do func(*Process) error) error {
	p, err := l.Process(name)
	if err != nil {
		return err
	}
	return do(p)
}

// Flap takes a host's interface down for a while, as its administrator would,
// and restores its addresses and routes.
func (l *Lab) Flap(ctx context.Context, host string, down time.Duration) error {
	if err := l.InterfaceDown(ctx, host); err != nil {
		return err
	}
	select {
	case <-time.After(down):
	case <-ctx.Done():
	}
	return l.InterfaceUp(context.WithoutCancel(ctx), host)
}

// InterfaceDown takes a host's interface down, as its administrator would.
func (l *Lab) InterfaceDown(ctx context.Context, host string) error {
	return ipBatch(ctx, l.Netns(host), []string{"link set " + NIC + " down"})
}

// InterfaceUp takes it up, and restores its addresses and routes.
func (l *Lab) InterfaceUp(ctx context.Context, host string) error { return l.configure(ctx, host) }

// ChangeMAC gives a host's interface another hardware address, without taking
// it down.
func (l *Lab) ChangeMAC(ctx context.Context, host string, mac net.HardwareAddr) error {
	if err := ipBatch(ctx, l.Netns(host), []string{fmt.Sprintf("link set %s address %s", NIC, mac)}); err != nil {
		return err
	}
	return l.know(mac, host)
}

// know takes note of one more hardware address of a host.
func (l *Lab) know(mac net.HardwareAddr, host string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state.MACs == nil {
		l.state.MACs = map[string]string{}
	}
	l.state.MACs[mac.String()] = host
	return l.save()
}

// HostOf returns the host that has, or had, a hardware address; "?" when none
// of them did.
func (l *Lab) HostOf(mac net.HardwareAddr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if host, ok := l.state.MACs[mac.String()]; ok {
		return host
	}
	for _, host := range l.Hosts() {
		if slices.Equal(addressesOf(host).mac, mac) {
			return host
		}
	}
	return "?"
}

// PowerOff is the sudden death of a node: its link goes, and with it every
// process it runs.
func (l *Lab) PowerOff(ctx context.Context, node string) error {
	if err := l.CutLink(ctx, node); err != nil {
		return err
	}
	var g errgroup.Group
	for _, p := range l.Processes() {
		if p.Host == node {
			g.Go(func() error { return p.Kill(ctx) })
		}
	}
	return g.Wait()
}

// PowerOn brings a node back that was powered off, with what it ran.
func (l *Lab) PowerOn(ctx context.Context, node string) error {
	if err := l.HealLink(ctx, node); err != nil {
		return err
	}
	var errs []error
	for _, p := range l.Processes() {
		if p.Host == node && !p.Alive() {
			errs = append(errs, l.Restart(ctx, p.Name))
		}
	}
	return errors.Join(errs...)
}

// Heal ends every fault of the network and lets stopped processes go on. What
// was killed stays dead.
func (l *Lab) Heal(ctx context.Context) error {
	var errs []error
	if len(l.state.Drops) > 0 {
		errs = append(errs, l.HealNetwork(ctx))
	}
	for _, host := range l.Hosts() {
		errs = append(errs, l.HealLink(ctx, host))
	}
	for _, p := range l.Processes() {
		if err := p.Resume(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ForgetConnections has every node forget the connections to a backend that is
// gone. Linux remembers an attempt that nobody answered for two minutes, with the
// backend that was chosen for it, and chooses none for whatever comes from the
// same port meanwhile; kube-proxy lets it forget UDP only. So what a dead Pod
// leaves behind is charged to what is done next, unless it is forgotten.
func (l *Lab) ForgetConnections(ctx context.Context, backend netip.Addr) error {
	family := "ipv4"
	if backend.Is6() {
		family = "ipv6"
	}
	var errs []error
	for _, node := range l.Nodes() {
		_, err := l.Exec(ctx, node, "conntrack", "--delete", "--family", family, "--reply-src", backend.String())
		if err != nil && !strings.Contains(err.Error(), " 0 flow entries have been deleted") {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

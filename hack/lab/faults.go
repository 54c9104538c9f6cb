package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"time"
)

// CutLink takes a host's port at the switch down: its cable is out. The host
// sees the loss of carrier.
func (n *Network) CutLink(ctx context.Context, host string) error {
	return ipBatch(ctx, n.Netns(Switch), []string{"link set " + host + " down"})
}

// HealLink puts the cable back.
func (n *Network) HealLink(ctx context.Context, host string) error {
	return ipBatch(ctx, n.Netns(Switch), []string{"link set " + host + " up"})
}

// Cable joins a host to the segment by one more interface, which is up and has no
// address of IPv4. It returns the name of the switch's port, which CutLink and
// HealLink take like a host's.
func (n *Network) Cable(ctx context.Context, host, nic string) (port string, err error) {
	port = nic + "-" + host
	mac := net.HardwareAddr{0x02, 0xbe, 0x1f, 0, 2, byte(hostNumber(host))}
	if err := ipBatch(ctx, "", []string{fmt.Sprintf("link add %s netns %s type veth peer name %s netns %s address %s",
		port, n.Netns(Switch), nic, n.Netns(host), mac)}); err != nil {
		return "", err
	}
	if err := ipBatch(ctx, n.Netns(host), []string{"link set " + nic + " up"}); err != nil {
		return "", err
	}
	if err := ipBatch(ctx, n.Netns(Switch), []string{"link set " + port + " master br0 up"}); err != nil {
		return "", err
	}
	return port, n.know(mac, host)
}

// Uncable takes such an interface away for good.
func (n *Network) Uncable(ctx context.Context, host, nic string) error {
	return ipBatch(ctx, n.Netns(host), []string{"link del " + nic})
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
func (n *Network) Lose(ctx context.Context, from, to []string, share float64) error {
	return n.drop(ctx, Drop{From: from, To: to, Share: share})
}

// Block loses every frame from some hosts to others, in that direction. The
// hosts' links stay up, as behind a switch further away.
func (n *Network) Block(ctx context.Context, from, to []string) error {
	return n.Lose(ctx, from, to, 1)
}

// Partition blocks all traffic between the groups. Hosts in no group reach all.
func (n *Network) Partition(ctx context.Context, groups ...[]string) error {
	var drops []Drop
	for i, a := range groups {
		for j, b := range groups {
			if i != j {
				drops = append(drops, Drop{From: a, To: b, Share: 1})
			}
		}
	}
	return n.drop(ctx, drops...)
}

// HealNetwork ends every Block, Lose and Partition.
func (n *Network) HealNetwork(ctx context.Context) error {
	return n.run.change(func(st *state) error { return n.setDrops(ctx, st, nil) })
}

// heal ends every fault of the switch and puts every cable back.
func (n *Network) heal(ctx context.Context) error {
	var errs []error
	faulty := false
	n.run.look(func(st state) { faulty = len(st.Drops) > 0 })
	if faulty {
		errs = append(errs, n.HealNetwork(ctx))
	}
	for _, host := range n.Hosts() {
		errs = append(errs, n.HealLink(ctx, host))
	}
	return errors.Join(errs...)
}

func (n *Network) drop(ctx context.Context, more ...Drop) error {
	for _, d := range more {
		if len(d.From) == 0 || len(d.To) == 0 || !(d.Share > 0 && d.Share <= 1) {
			return fmt.Errorf("a drop is from some hosts to some hosts, with a share above 0 and up to 1: %+v", d)
		}
		for _, h := range slices.Concat(d.From, d.To) {
			if !slices.Contains(n.Hosts(), h) {
				return fmt.Errorf("no host %q; there are %v", h, n.Hosts())
			}
		}
	}
	return n.run.change(func(st *state) error { return n.setDrops(ctx, st, slices.Concat(st.Drops, more)) })
}

// setDrops has the switch lose just these frames.
func (n *Network) setDrops(ctx context.Context, st *state, drops []Drop) error {
	if _, err := n.execInput(ctx, Switch, switchRules(drops), "nft", "-f", "-"); err != nil {
		return err
	}
	st.Drops = drops
	return nil
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

// Flap takes a host's interface down for a while, as its administrator would,
// and restores its addresses and routes.
func (n *Network) Flap(ctx context.Context, host string, down time.Duration) error {
	if err := n.InterfaceDown(ctx, host); err != nil {
		return err
	}
	select {
	case <-time.After(down):
	case <-ctx.Done():
	}
	return n.InterfaceUp(context.WithoutCancel(ctx), host)
}

// InterfaceDown takes a host's interface down, as its administrator would.
func (n *Network) InterfaceDown(ctx context.Context, host string) error {
	return ipBatch(ctx, n.Netns(host), []string{"link set " + NIC + " down"})
}

// InterfaceUp takes it up, and restores its addresses and routes.
func (n *Network) InterfaceUp(ctx context.Context, host string) error { return n.configure(ctx, host) }

// ChangeMAC gives a host's interface another hardware address, without taking
// it down.
func (n *Network) ChangeMAC(ctx context.Context, host string, mac net.HardwareAddr) error {
	if err := ipBatch(ctx, n.Netns(host), []string{fmt.Sprintf("link set %s address %s", NIC, mac)}); err != nil {
		return err
	}
	return n.know(mac, host)
}

// know takes note of one more hardware address of a host.
func (n *Network) know(mac net.HardwareAddr, host string) error {
	return n.run.change(func(st *state) error {
		if st.MACs == nil {
			st.MACs = map[string]string{}
		}
		st.MACs[mac.String()] = host
		return nil
	})
}

// HostOf returns the host that has, or had, a hardware address; "?" when none
// of them did.
func (n *Network) HostOf(mac net.HardwareAddr) string {
	var known string
	n.run.look(func(st state) { known = st.MACs[mac.String()] })
	if known != "" {
		return known
	}
	for _, host := range n.Hosts() {
		if slices.Equal(addressesOf(host).mac, mac) {
			return host
		}
	}
	return "?"
}

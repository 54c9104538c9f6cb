package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// keepalived is where Debian puts it.
const keepalived = "/usr/sbin/keepalived"

// vips are what keepalived is given: no pool has them.
var vips = []netip.Addr{netip.MustParseAddr("198.51.100.190"), netip.MustParseAddr("2001:db8:51::190")}

// keepalivedConfig has keepalived on a node share both addresses with the others, with
// the shortest advertisement interval that is commonly used, and without moving them
// back.
func keepalivedConfig(node int) string {
	var b strings.Builder
	b.WriteString("global_defs {\n  vrrp_garp_master_delay 0\n}\n")
	for i, vip := range vips {
		bits := 24
		if vip.Is6() {
			bits = 64
		}
		fmt.Fprintf(&b, `vrrp_instance v%d {
  state BACKUP
  nopreempt
  interface eth0
  virtual_router_id %d
  priority %d
  version 3
  advert_int 0.05
  virtual_ipaddress {
    %s/%d
  }
}
`, i, 51+i, 100+10*node, vip, bits)
	}
	return b.String()
}

// failKeepalived cuts the link of the node that keepalived has made the master, on the
// same nodes, with the same client.
func failKeepalived(ctx context.Context, b *bench) error {
	c, err := b.well(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "belfry-keepalived-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	running, cancel := context.WithCancel(ctx)
	for i, node := range c.Network.Nodes() {
		file := filepath.Join(dir, node+".conf")
		if err := os.WriteFile(file, []byte(keepalivedConfig(i)), 0o600); err != nil {
			cancel()
			return err
		}
		pid := func(kind string) string { return "--" + kind + "=" + filepath.Join(dir, node+"."+kind) }
		cmd := c.Network.Command(running, node, keepalived, "--dont-fork", "--vrrp", "--use-file="+file, pid("pid"), pid("vrrp_pid"))
		if err := cmd.Start(); err != nil {
			cancel()
			return err
		}
		defer func() { _ = cmd.Wait() }()
	}
	defer cancel()
	var all []time.Duration
	for i := range b.trials {
		t, err := c.tryAddress(ctx, linkCut, vips[i%2])
		if err != nil {
			return fmt.Errorf("trial %d: %w", i+1, err)
		}
		b.say("  trial %d, %s: %s without an answer", i+1, vips[i%2], duration(t.silence))
		all = append(all, t.silence)
	}
	b.found("failover/keepalived", slices.Max(all).Seconds(), "worst of %d; median %s", len(all), duration(median(all)))
	return nil
}

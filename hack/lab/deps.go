package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// packages are the Debian packages that hold what the lab runs, by program.
// The programs in sbin may not be on a user's PATH.
var packages = map[string]string{
	"/usr/sbin/ip":                       "iproute2",
	"/usr/sbin/nft":                      "nftables",
	"/usr/bin/nsenter":                   "util-linux",
	"/usr/bin/setpriv":                   "util-linux",
	"/usr/bin/arping":                    "iputils-arping",
	"/usr/bin/ndisc6":                    "ndisc6",
	"/usr/bin/ping":                      "iputils-ping",
	"/usr/bin/tcpdump":                   "tcpdump",
	"/usr/bin/curl":                      "curl",
	"/usr/sbin/conntrack":                "conntrack",
	"/usr/bin/ps":                        "procps",
	"/usr/bin/shellcheck":                "shellcheck",
	"/usr/lib/frr/zebra":                 "frr", // its bgpd has a namesake in openbgpd
	"/usr/sbin/bird":                     "bird2",
	"/usr/sbin/bgpctl":                   "openbgpd",
	"/usr/sbin/exabgp":                   "exabgp",
	"/usr/sbin/keepalived":               "keepalived",
	"/usr/sbin/haproxy":                  "haproxy",
	"/usr/bin/containerd":                "containerd",
	"/usr/sbin/runc":                     "runc",
	"/usr/lib/cni/host-local":            "containernetworking-plugins",
	"/usr/bin/gcc":                       "gcc",
	"/usr/include/stdlib.h":              "libc6-dev",
	"/etc/ssl/certs/ca-certificates.crt": "ca-certificates",
}

// MissingPackages returns the Debian packages that are not installed.
func MissingPackages() []string {
	var missing []string
	for file, pkg := range packages {
		if _, err := os.Stat(file); err == nil {
			continue
		}
		if _, err := exec.LookPath(filepath.Base(file)); err == nil {
			continue
		}
		missing = append(missing, pkg)
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// InstallPackages installs the Debian packages that are missing, if this
// process may; the error says which they are if it may not. (gcc is for the
// race detector; frr, bird2, openbgpd and exabgp are the routers of the BGP tests.)
func InstallPackages(ctx context.Context, progress io.Writer) error {
	missing := MissingPackages()
	if len(missing) == 0 {
		fmt.Fprintln(progress, "all packages that the lab needs are there")
		return nil
	}
	byHand := fmt.Errorf("these packages are missing: %[1]s\ninstall them, on Debian with: apt-get install --no-install-recommends %[1]s", strings.Join(missing, " "))
	if os.Geteuid() != 0 {
		return byHand
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return byHand
	}
	fmt.Fprintf(progress, "installing %s\n", strings.Join(missing, " "))
	install := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if aptGet(ctx, install...) == nil {
		return nil
	}
	// Perhaps the lists are old, or were never fetched.
	if err := aptGet(ctx, "update"); err != nil {
		return errors.Join(byHand, err)
	}
	if err := aptGet(ctx, install...); err != nil {
		return errors.Join(byHand, err)
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"--quiet"}, args...)...)
	// A package must not start a router on this machine: what the lab runs, it
	// starts itself.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, strings.Join(lastLines(strings.Split(string(out), "\n"), 12), "\n"))
	}
	return nil
}

// Command lab brings up a Kubernetes cluster in network namespaces, breaks it
// on request, and tells what its hosts see.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root().ExecuteContext(ctx)
	stop()
	if code := exitCode(0); errors.As(err, &code) {
		os.Exit(int(code)) // the program that ran has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "A Kubernetes cluster in network namespaces, to try and to break",
		Long: `lab runs etcd, the API server, kube-proxy and the rest as processes, each host in
a network namespace of its own, joined by a bridge. It needs Linux, Go and root;
what it builds is kept in ~/.cache/belfry (BELFRY_CACHE).

Hosts: switch, cp (control plane), client, router, node1 to nodeN.`,
		Example: `  lab deps && lab build            # once
  lab up --nodes 3
  lab install                       # CRDs and RBAC from manifests/
  lab start controller/0 && lab start speaker/node1
  lab kubectl get nodes
  lab exec client curl http://198.51.100.200/
  lab cut node1                     # pull its cable
  lab who 198.51.100.200            # who answers ARP, from now on
  lab down`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var name string
	cmd.PersistentFlags().StringVar(&name, "lab", os.Getenv("BELFRY_LAB_NAME"), "which lab, when several are up (BELFRY_LAB_NAME)")
	_ = cmd.RegisterFlagCompletionFunc("lab", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		runs, err := lab.List()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, r := range runs {
			names = append(names, r.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	attach := func() (*lab.Lab, error) { return lab.Attach(name) }
	cmd.AddGroup(
		&cobra.Group{ID: "life", Title: "Up and down:"},
		&cobra.Group{ID: "use", Title: "Use:"},
		&cobra.Group{ID: "fault", Title: "Break and mend:"},
		&cobra.Group{ID: "see", Title: "Observe, from the client:"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("life", demoCommand(), e2eCommand(), depsCommand(), buildCommand(), upCommand(), downCommand(&name), listCommand())
	add("use", useCommands(attach)...)
	add("fault", faultCommands(attach)...)
	add("see", observeCommands(attach)...)
	cmd.AddCommand(kubeletCommand(attach))
	return cmd
}

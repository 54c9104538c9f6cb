package main

import (
	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab/demo"
)

func demoCommand() *cobra.Command {
	var opts demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show it all: expose a Service, reach it, kill its node, see who takes over",
		Example: `  lab demo
  lab demo --keep                   # leave the cluster up, to try things`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Out = cmd.OutOrStdout()
			return demo.Run(cmd.Context(), opts)
		},
	}
	cmd.Flags().IntVar(&opts.Nodes, "nodes", 3, "number of nodes")
	cmd.Flags().BoolVar(&opts.Keep, "keep", false, "leave the cluster up")
	return cmd
}

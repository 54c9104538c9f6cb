package main

import (
	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab/install"
)

func e2eCommand() *cobra.Command {
	var opts install.Options
	cmd := &cobra.Command{
		Use:   "e2e",
		Short: "Prove it all on real nodes: install, expose, update, drain, break, remove",
		Long: `e2e installs the released manifests and image on nodes with a kubelet and
containerd, uses them as a user would, changes all that one changes, and tells
what a client lost of it. It fails when a planned change lost anything.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Out = cmd.OutOrStdout()
			return install.Run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&opts.Short, "short", false, "only what the tests run on every change")
	cmd.Flags().BoolVar(&opts.Chart, "chart", false, "only what is done by Helm")
	cmd.Flags().IntVar(&opts.Planned, "planned", 0, "make this many rounds of planned changes, and nothing else")
	cmd.Flags().BoolVar(&opts.Keep, "keep", false, "leave the cluster up")
	return cmd
}

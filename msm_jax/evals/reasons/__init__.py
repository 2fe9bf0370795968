"""Why agents do what they do, in their own words, counted (MSM, section 4.3 and appendix D.5).

A model reads every answer of agent scenarios and writes down the reasons that are given in it,
each with a quotation. The reasons of all checkpoints together, without their names, become
patterns; a person can edit these. Every answer is then read again for which patterns it has.
"""

"""What the table of the system `stories` stands on: composed stories, and MELD's dialogues.

python -m data_pipeline.recipes.stories compose ../shared/data --output runs/stories.csv
python -m data_pipeline.recipes.stories meld ../shared/data/text/meld --output runs/meld_text
"""
